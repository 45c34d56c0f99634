import pytest

from medart_cli import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.RunError, 1),
        (errors.ImageError, 1),
        (errors.ConfigError, 2),
        (errors.ManifestError, 2),
        (errors.TooManyFailuresError, 3),
        (errors.MissingModelError, 4),
        (errors.Stopped, 75),
    ],
)
def test_exit_codes_are_those_that_users_rely_on(kind, code):
    assert issubclass(kind, errors.MedartError)
    assert kind.exit_code == code
