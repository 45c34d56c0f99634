from importlib import metadata

from medart_cli.versions import LOADER, name_versions, read_versions


def test_outputs_say_by_what_they_were_made():
    found = read_versions()
    assert found["torch"] == metadata.version("torch")
    assert {"python", "diffusers", "medart-cli"} <= found.keys()


def test_keys_of_caches_name_the_loader_and_what_computes():
    assert name_versions().startswith(LOADER)
    for name in ("torch", "pillow", "transformers"):
        assert f"{name} {metadata.version(name)}" in name_versions()
