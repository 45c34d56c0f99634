import base64
import importlib.util
import io
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

from medart_cli.caption.endpoint import (
    LONGEST_REPLY,
    Endpoint,
    check_endpoint,
    is_loopback,
    is_unencrypted,
)
from medart_cli.errors import ConfigError, RunError
from medart_cli.models.questions import Question, Sampling
from tests.small_captioner import build_llava
from tests.stub_server import completion, list_models, prompt_of, serve

HALF = b'HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n{"choices":'


def connect(stub, sampling=None, **options):
    endpoint = Endpoint(
        check_endpoint(stub.url, allow_remote=False), sampling=sampling or Sampling(), **options
    )
    endpoint.first_wait = 0.01
    return endpoint.connect(None)


def questions(count=1):
    return [
        Question(Image.new("RGB", (8, 6), (40, index, 90)), f"prompt {index}", index)
        for index in range(count)
    ]


def ask(endpoint, count=1, **options):
    found = dict(item for item in endpoint.ask(questions(count), **options) if item)
    return [found[index] for index in range(count)]


def in_turn(*answers):
    left = list(answers)
    return lambda body: left.pop(0) if len(left) > 1 else left[0]


def test_a_request_carries_prompt_image_seed_and_sampling():
    with serve(lambda body: "a text") as stub:
        answer = ask(connect(stub))[0]
    assert answer.text == "a text" and answer.finished and answer.error is None
    body = stub.requests[0]
    assert body["model"] == "stub-model" and body["seed"] == 0
    assert (body["temperature"], body["top_p"], body["top_k"], body["max_tokens"]) == (
        0.8, 0.9, 50, 150,
    )  # fmt: skip
    assert prompt_of(body) == "prompt 0"
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    sent = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
    assert np.array_equal(np.asarray(sent), np.asarray(questions()[0].image))


def test_greedy_asks_for_no_temperature():
    with serve(lambda body: "a text") as stub:
        ask(connect(stub), greedy=True)
        ask(connect(stub, Sampling(temperature=0)))
    assert [body["temperature"] for body in stub.requests] == [0, 0]
    assert not any("top_k" in body for body in stub.requests)


def test_answers_belong_to_their_questions_and_requests_run_side_by_side():
    def reply(body):
        time.sleep(0.02)
        return prompt_of(body).upper()

    with serve(reply) as stub:
        texts = [answer.text for answer in ask(connect(stub, concurrency=3), 12)]
    assert texts == [f"PROMPT {index}" for index in range(12)]
    assert 1 < stub.most_at_once <= 3


@pytest.mark.parametrize(
    "trouble",
    [429, 500, 503, None, b"garbage", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{x}",
     b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Encoding: gzip\r\n\r\n{x}", HALF,
     (200, {"choices": []}, {}), (200, [1], {}), (200, {"choices": [{"message": {}}]}, {}),
     (429, {"error": "slow", "retry_after": "soon"}, {})],
    ids=["429", "500", "503", "dropped", "no-http", "no-json", "no-gzip", "half", "empty", "list",
         "no-text", "odd-wait"],
)  # fmt: skip
def test_what_may_pass_is_asked_again(trouble):
    with serve(in_turn(trouble, trouble, "a text")) as stub:
        assert ask(connect(stub))[0].text == "a text"
    assert len(stub.requests) == 3


def test_tries_are_bounded_and_the_last_reason_is_kept():
    with serve(lambda body: 500) as stub:
        answer = ask(connect(stub))[0]
    assert answer.text == "" and "returns 500: stub says no (5 attempts)" in answer.error
    assert len(stub.requests) == 5


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (None, "broken reply (Server disconnected without sending a response.)"),
        (HALF, "broken reply (peer closed connection without sending complete message body"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{\xe9}", "the reply is not JSON"),
        ((200, completion("x" * LONGEST_REPLY), {}), "the reply is not JSON"),
        ((500, {"error": "x" * LONGEST_REPLY}, {}), "returns 500: {"),
        ((400, {"error": {"message": "context  length\n4096"}}, {}), "400: context length 4096"),
    ],
    ids=["dropped", "half", "no-json", "endless", "endless-500", "too-long"],
)
def test_what_a_broken_reply_lacks_is_said(trouble, said):
    with serve(lambda body: trouble) as stub:
        endpoint = connect(stub)
        endpoint.retries = 1
        answer = ask(endpoint)[0]
    assert said in answer.error and len(answer.error) < 300


def test_requests_share_connections():
    with serve(lambda body: "a text", keep_alive=True) as stub:
        endpoint = connect(stub, concurrency=2)
        for _ in range(3):
            ask(endpoint, 10)
    assert len(stub.requests) == 30
    assert len(stub.clients) <= 2


def test_a_hang_ends_at_the_time_limit():
    leave = threading.Event()
    with serve(lambda body: leave.wait(20) and None) as stub:
        endpoint = connect(stub, timeout=0.2)
        endpoint.retries = 1
        started = time.monotonic()
        answer = ask(endpoint)[0]
        leave.set()
    assert "no reply in time (2 attempts)" in answer.error and time.monotonic() - started < 5


def test_the_caller_is_given_the_chance_to_stop_while_nothing_comes():
    leave = threading.Event()
    with serve(lambda body: leave.wait(20) and None) as stub:
        asked = connect(stub).ask(questions())
        started = time.monotonic()
        assert next(asked) is None
        asked.close()
        leave.set()
    assert time.monotonic() - started < 3


def test_a_server_s_wish_to_wait_is_granted():
    with serve(in_turn((429, {}, {"Retry-After": "1"}), "a text")) as stub:
        started = time.monotonic()
        assert ask(connect(stub))[0].text == "a text"
    assert time.monotonic() - started >= 1


def test_a_request_that_is_wrong_is_not_sent_again():
    with serve(lambda body: 413) as stub:
        assert "returns 413" in ask(connect(stub))[0].error
    assert len(stub.requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_other_image_changes_ends_the_run(status):
    with serve(lambda body: status) as stub, pytest.raises(RunError, match=str(status)):
        ask(connect(stub), 3)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_for_the_image_would_go_elsewhere(status):
    with serve(lambda body: "elsewhere") as other:
        headers = {"Location": other.url + "/v1/chat/completions"}
        with (
            serve(lambda body: (status, {}, headers)) as stub,
            pytest.raises(RunError, match=str(status)),
        ):
            ask(connect(stub))
    assert other.requests == []


def test_a_server_that_fails_on_every_image_ends_the_run():
    with serve(lambda body: 400) as stub, pytest.raises(RunError, match="10 images in a row"):
        ask(connect(stub, concurrency=2), 30)


def test_now_and_then_a_failure_does_not_end_the_run():
    with serve(lambda body: 400 if prompt_of(body)[-1] in "13579" else "a text") as stub:
        found = ask(connect(stub, concurrency=1), 40)
    assert sum(answer.error is not None for answer in found) == 20


def test_a_refused_connection_names_the_way_on():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(RunError, match="cannot be reached: connection refused"):
        Endpoint(url + "/v1", sampling=Sampling()).connect("any")
    endpoint = Endpoint(url + "/v1", sampling=Sampling())
    endpoint.first_wait = 0.01
    with pytest.raises(RunError, match="start the server"):
        ask(endpoint)


def test_a_server_without_top_k_is_asked_in_other_words_once_and_for_all():
    def reply(body):
        for name in ("top_k", "generation_config"):
            if name in body:
                return 422, {"detail": f"Unexpected fields in the request: {{'{name}'}}"}, {}
        return "a text"

    with serve(reply) as stub:
        endpoint = connect(stub, concurrency=1)
        assert [answer.text for answer in ask(endpoint, 3)] == ["a text"] * 3
    assert len(stub.requests) == 5
    assert json.loads(stub.requests[1]["generation_config"]) == {"do_sample": True, "top_k": 50}
    assert all("chat_template_kwargs" in body for body in stub.requests)


def test_the_chat_template_is_told_not_to_think_until_the_server_refuses_that():
    refusals = [
        (400, {"error": {"message": "Unrecognized request argument: chat_template_kwargs"}}, {}),
        (422, {"detail": [{"loc": ["body", "chat_template_kwargs"], "type": "extra"}]}, {}),
        (400, {"error": {"message": "chat_template is not supported for this tokenizer."}}, {}),
    ]
    for refusal in refusals:
        with serve(in_turn(refusal, "a text")) as stub:
            endpoint = connect(stub, concurrency=1)
            assert [answer.text for answer in ask(endpoint, 2)] == ["a text"] * 2
        told = [body.get("chat_template_kwargs") for body in stub.requests]
        assert told == [{"enable_thinking": False, "thinking": False}, None, None]
        assert all(body["top_k"] == 50 for body in stub.requests)


def answer_with(message, reason="stop", **more):
    """Let a server answer with a message as it is."""
    body = {"choices": [{"message": message, "finish_reason": reason}], **more}
    with serve(lambda _: (200, body, {})) as stub:
        return ask(connect(stub))[0]


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "reasoning_content": "It asks for a nevus."},
        {"content": None, "reasoning": "It asks for a nevus."},
        {"content": "", "reasoning_content": "It asks for a nevus."},
        {"reasoning": "It asks for a nevus."},
        {"content": "<think>It asks for a nevus."},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "It asks"}]}]},
    ],
)
def test_an_answer_that_is_only_reasoning_is_known_as_such(message):
    answer = answer_with(message, "length")
    assert (answer.text, answer.only_reasoning, answer.error) == ("", True, None)


def think_aloud(body):
    """Answer as a model whose prompt opens a thought, behind a server that does not part it."""
    thought = 'Begin exactly with: "A nevus". It is brown, and so on.'
    if body["max_tokens"] < 1000:
        return 200, completion(thought, "length"), {}
    return f"{thought}</think>A nevus, brown."


def test_a_thought_that_was_cut_and_has_no_mark_is_known_by_one_longer_answer(said):
    with serve(think_aloud) as stub:
        endpoint = connect(stub, concurrency=2)
        answers = ask(endpoint, 6) + ask(endpoint, 2)
    assert [(answer.text, answer.only_reasoning) for answer in answers] == [("", True)] * 8
    longer = [body for body in stub.requests if body["max_tokens"] > 1000]
    assert (len(longer), longer[0]["temperature"], len(stub.requests)) == (1, 0, 9)
    assert said == [f"{endpoint.url}: its model thinks before it answers"]


def test_a_server_that_refuses_the_longer_answer_is_believed_and_that_is_said(said):
    def reply(body):
        cut = 200, completion("A nevus, brown and", "length"), {}
        return 400 if body["max_tokens"] > 1000 else cut

    with serve(reply) as stub:
        assert ask(connect(stub))[0].text == "A nevus, brown and"
    assert said[0].endswith("cannot tell whether its model thinks aloud: returns 400: stub says no")


def test_a_long_answer_of_a_model_that_does_not_think_is_kept(said):
    with serve(lambda _: (200, completion("A nevus, brown and", "length"), {})) as stub:
        answers = ask(connect(stub, concurrency=2), 4)
    assert {(answer.text, answer.finished) for answer in answers} == {("A nevus, brown and", False)}
    assert len(stub.requests) == 5 and said == []


def test_reasoning_that_a_server_counts_and_hides_is_known_too():
    usage = {"completion_tokens_details": {"reasoning_tokens": 150}}
    assert answer_with({"content": ""}, "length", usage=usage).only_reasoning
    assert not answer_with({"content": ""}, usage={"completion_tokens": 0}).only_reasoning


@pytest.mark.parametrize(
    "message",
    [
        {"content": "A nevus.", "reasoning_content": "It asks for a melanoma."},
        {"content": "<think>It asks for a melanoma.</think>\n\nA nevus."},
        {"content": [{"type": "text", "text": "A "}, {"type": "text", "text": "nevus."}]},
        {"content": [{"type": "thinking", "thinking": "It"}, {"type": "text", "text": "A nevus."}]},
        {"content": None, "refusal": "A nevus."},
    ],
    ids=["beside", "inside", "parts", "a part", "refusal"],
)
def test_the_text_of_an_answer_is_read_whatever_stands_beside_it(message):
    answer = answer_with(message)
    assert (answer.text, answer.only_reasoning, answer.finished) == ("A nevus.", False, True)


def test_a_content_filter_is_said_as_what_it_is():
    assert answer_with({"content": None}, "content_filter").error == (
        "the server's content filter withheld the answer"
    )
    refused = (400, {"error": {"code": "content_filter", "message": "policy"}}, {})
    with serve(lambda _: refused) as stub:
        error = ask(connect(stub))[0].error
    assert error.endswith("/v1: the server's content filter withheld the answer (400)")
    assert len(stub.requests) == 1


@pytest.mark.parametrize(
    "stream",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\ndata: {}\n\n",
        b"HTTP/1.1 200 OK\r\n\r\ndata: {}\n\n",
    ],
    ids=["named", "unnamed"],
)
def test_a_stream_of_events_is_said_as_what_it_is(stream):
    with serve(lambda _: stream) as stub, pytest.raises(RunError, match="turn streaming off"):
        ask(connect(stub))
    assert len(stub.requests) == 1


def connect_in_turn(pages, model=None, **waits):
    """Connect to a server whose page of models changes; returns the endpoint."""
    left = list(pages)
    turn = lambda: left.pop(0) if len(left) > 1 else left[0]  # noqa: E731
    with serve(lambda body: "a text", listing=turn) as stub:
        endpoint = Endpoint(stub.url + "/v1", sampling=Sampling())
        for name, seconds in waits.items():
            setattr(endpoint, name, seconds)
        return endpoint.connect(model)


ELSEWHERE = (307, {}, {"Location": "http://10.0.0.9/v1/models"})


@pytest.mark.parametrize("status", [503, 502, 404, 307])
def test_a_server_that_is_loading_is_waited_for_and_that_is_said_once(status, said, monkeypatch):
    monkeypatch.setattr("medart_cli.caption.endpoint.IDLE", 0.01)
    loading = ELSEWHERE if status == 307 else (status, {}, {})
    endpoint = connect_in_turn([loading, loading, loading, list_models("a/b")])
    assert endpoint.name == "a/b"
    assert len(said) == 1 and f"not ready ({status}); waiting up to" in said[0]


def test_what_does_not_come_is_not_waited_for_without_end(said):
    gone = [(404, {}, {})]
    assert connect_in_turn(gone, "mine", unlisted=0).name == "mine"
    assert said[-1].endswith("has no list of models (404); asking for mine")
    with pytest.raises(ConfigError, match=r"--model; it has no list of models \(404\)"):
        connect_in_turn(gone, unlisted=0)
    with pytest.raises(RunError, match=r"redirects to http://10.0.0.9/v1/models \(307\)"):
        connect_in_turn([ELSEWHERE], "mine", unlisted=0)
    with pytest.raises(RunError, match=r"is not ready \(503: loading\)"):
        connect_in_turn([(503, {"detail": "loading"}, {})], "mine", loading=0)


def test_the_model_is_asked_for_by_its_name_and_called_without_a_path():
    with serve(lambda body: "a text", listing=lambda: list_models("/data/of/ann/qwen3")) as stub:
        endpoint = connect(stub)
        ask(endpoint)
    assert endpoint.name == "qwen3" and stub.requests[0]["model"] == "/data/of/ann/qwen3"


def test_a_text_cut_at_the_limit_is_not_finished_and_broken_letters_are_mended():
    with serve(lambda body: (200, completion("half \ud83d", "length"), {})) as stub:
        answer = ask(connect(stub))[0]
    assert answer.text == "half ?" and not answer.finished


def test_no_request_is_logged(caplog):
    caplog.set_level(logging.DEBUG)
    with serve(in_turn(500, None, "a text")) as stub:
        assert ask(connect(stub))[0].text == "a text"
    assert [name for name, _, _ in caplog.record_tuples if name.startswith("http")] == []


def test_the_key_goes_into_the_header_alone(caplog):
    caplog.set_level(logging.DEBUG)
    with serve(in_turn(500, "a text")) as stub:
        ask(connect(stub, key="secret-key\n"))
    assert stub.headers[0]["Authorization"] == "Bearer secret-key"
    assert "secret-key" not in json.dumps(stub.requests) + caplog.text


@pytest.mark.parametrize("key", ["secret\nkey", "secret key", "secrét"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(key):
    with pytest.raises(ConfigError, match="MEDART_ENDPOINT_KEY") as caught:
        Endpoint("http://127.0.0.1:9/v1", sampling=Sampling(), key=key)
    assert "secr" not in str(caught.value)


def test_proxies_of_the_environment_do_not_see_loopback_requests(monkeypatch):
    with serve(lambda body: "through the proxy") as proxy, serve(lambda body: "direct") as stub:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert ask(connect(stub))[0].text == "direct"
    assert proxy.requests == []


def ask_afar(monkeypatch, **proxies):
    """Ask a server of an unknown name; no name server is asked, which is slow where none is."""
    find_address = socket.getaddrinfo

    def find_local(host, *options, **more):
        if host != "127.0.0.1":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return find_address(host, *options, **more)

    monkeypatch.setattr(socket, "getaddrinfo", find_local)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in proxies.items():
        monkeypatch.setenv(name, value)
    url = check_endpoint("http://server.invalid", allow_remote=True)
    return ask(Endpoint(url, sampling=Sampling()).connect(None))[0].text


def test_a_server_off_the_loopback_is_reached_by_the_environment_s_proxy(monkeypatch):
    with serve(lambda body: "through the proxy") as proxy:
        bare = proxy.url.removeprefix("http://")
        assert ask_afar(monkeypatch, http_proxy=proxy.url) == "through the proxy"
        assert ask_afar(monkeypatch, HTTP_PROXY=bare) == "through the proxy"
        for more in ({"all_proxy": proxy.url}, {"http_proxy": proxy.url, "no_proxy": ".invalid"}):
            with pytest.raises(RunError, match="server.invalid/v1: cannot be reached"):
                ask_afar(monkeypatch, **more)
    assert len(proxy.requests) == 2


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "http://me:secret@host:port", "http://"])
def test_a_proxy_that_is_none_is_named_without_its_password(monkeypatch, proxy):
    with pytest.raises(RunError, match="http_proxy is not of the form") as caught:
        ask_afar(monkeypatch, http_proxy=proxy)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("http://[::1]:8000/v1/chat/completions", "http://[::1]:8000/v1"),
        ("https://127.8.9.1/api/v3", "https://127.8.9.1/api/v3"),
    ],
)
def test_loopback_addresses_are_taken(url, whole):
    assert check_endpoint(url, allow_remote=False) == whole


@pytest.mark.parametrize(
    "url",
    ["http://10.0.0.5:8000/v1", "https://api.example.org/v1", "http://localhost.example.org",
     "http://127.0.0.1.example.org", "http://0.0.0.0:8000", "http://[::2]/v1"],
)  # fmt: skip
def test_addresses_off_the_loopback_need_leave(url):
    with pytest.raises(ConfigError, match="--allow-remote"):
        check_endpoint(url, allow_remote=False)
    assert check_endpoint(url, allow_remote=True).startswith(url.split("/v1")[0])


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://127.0.0.1", "http://", "http://me:secret@127.0.0.1/v1",
            "http://127.0.0.1/v1?key=secret", "ftp://me:secret@127.0.0.1", "http://me:secret@[::1",
            "http://127.0.0.1:secret", "http://127.0.0.1:99999", "http://127.0.0.1\\@secret.org"]
)  # fmt: skip
def test_what_is_no_plain_address_is_refused_without_showing_a_password(url):
    with pytest.raises(ConfigError) as caught:
        check_endpoint(url, allow_remote=True)
    assert "secret" not in str(caught.value)


def test_the_loopback_is_this_machine_alone():
    assert is_loopback("LOCALHOST") and is_loopback("127.1.2.3") and is_loopback("::1")
    assert is_loopback("[::1]") and not is_loopback("[::2]")
    assert not is_loopback("192.168.0.1") and not is_loopback("example.org")


@pytest.mark.parametrize(
    ("url", "clear"),
    [("http://[::1]:8000/v1", False), ("http://[::1]/v1", False), ("http://localhost/v1", False),
     ("https://10.0.0.5/v1", False), ("http://10.0.0.5:8000/v1", True), ("http://[::2]/v1", True)],
)  # fmt: skip
def test_images_are_in_the_clear_where_they_leave_the_machine_without_https(url, clear):
    assert is_unencrypted(url) == clear


def test_a_model_must_be_named_where_there_are_several(monkeypatch):
    with serve(lambda body: "a text") as stub:
        endpoint = Endpoint(stub.url + "/v1", sampling=Sampling())
        listed = {"data": [{"id": "one"}, {"id": "two"}]}
        monkeypatch.setattr(endpoint, "_send", lambda path, fields: (200, listed))
        with pytest.raises(ConfigError, match="it lists one, two"):
            endpoint.connect(None)
        assert endpoint.connect("two").name == "two"


@pytest.fixture(scope="module")
def real_server(tmp_path_factory):
    """`transformers serve` itself, with a small model."""
    if importlib.util.find_spec("uvicorn") is None:
        pytest.skip("needs transformers[serving]")
    folder = build_llava(tmp_path_factory.mktemp("served") / "llava")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = "from transformers.cli.transformers import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "serve", str(folder), "--port", str(port), "--host",
         "127.0.0.1", "--device", "cpu", "--dtype", "float32"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, "transformers serve ended"
            try:
                urllib.request.urlopen(f"{url}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url, str(folder)
    finally:
        process.terminate()
        process.wait(20)


def test_transformers_serve_answers(real_server):
    url, model = real_server
    sampling = Sampling(max_new_tokens=10)
    endpoint = Endpoint(check_endpoint(url, allow_remote=False), sampling=sampling).connect(model)
    answers = ask(endpoint, 3)
    assert all(answer.error is None and answer.text for answer in answers)
    assert not all(answer.finished for answer in answers)
    greedy = [answer.text for answer in ask(endpoint, 3, greedy=True)]
    assert greedy == [answer.text for answer in ask(endpoint, 3, greedy=True)]
    assert greedy != [answer.text for answer in answers]  # it drew, as it was asked to
