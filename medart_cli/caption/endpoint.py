"""A captioner behind HTTP: the chat completions of OpenAI, which vLLM and SGLang offer too.

The images travel inside the request. Nothing leaves the loopback unless that is asked for, so
redirects are never followed and proxies are never used for a server on the loopback.
"""

import base64
import io
import ipaddress
import json
import logging
import random
import re
import time
from collections.abc import Iterator, Sequence
from errno import ECONNREFUSED
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpx2
from PIL import Image

from medart_cli import stop
from medart_cli.errors import ConfigError, RunError
from medart_cli.log import log
from medart_cli.models.hub import public_name
from medart_cli.models.questions import Answer, Question, Sampling
from medart_cli.models.reasoning import has_reasoning, is_opened_before, strip_reasoning

RETRY_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
REDIRECTS = {301, 302, 303, 307, 308}
HOPELESS_STATUS = {*REDIRECTS, 401, 403, 404, 405}  # no other image fares better
FILTERED = "the server's content filter withheld the answer"
# What a chat template is told, and ignores where it does not know it: Qwen, GLM, Gemma and most
# others know the first, Kimi, DeepSeek and Granite the second.
NO_THINKING = {"enable_thinking": False, "thinking": False}
REFUSED = "connection refused"
LONGEST_REPLY = 1 << 20  # bytes
LONGEST_WAIT = 60.0  # seconds between two tries, whatever the server asks for
# Seconds for which an idle connection is kept; less than the 5 after which uvicorn, under all these
# servers, closes one, perhaps just as a request is sent.
KEEP_IDLE = 2.0
ROOM_TO_THINK = 2048  # tokens for an answer that is to show whether the model thinks aloud
LOADING = 600.0  # seconds for which a server is waited for that says it is not ready
UNLISTED = 60.0  # seconds for which a list of models is waited for that is not there
IDLE = 0.5  # seconds after which `ask` lets its caller look around
FAILURES_IN_A_ROW = 10  # the server is then taken to be broken, not the images


def check_endpoint(url: str, *, allow_remote: bool) -> str:
    """Check an endpoint's address and return it with its version path, `/v1` where it has none.

    Raises:
        ConfigError: It is no http address, carries a password, or is not on the loopback although
            images may not leave this machine.
    """
    parts = _read_url(url)
    if parts is None:  # and may hold a password: it is not shown
        raise ConfigError("--endpoint: not of the form http://127.0.0.1:8000/v1")
    if parts.userinfo or parts.query or parts.fragment:
        raise ConfigError(
            "--endpoint: must be an address only; set the API key in MEDART_ENDPOINT_KEY"
        )
    if not allow_remote and not is_loopback(parts.host):
        raise ConfigError(
            f"--endpoint {url}: is not on this machine (loopback); use --allow-remote if images "
            "may leave it"
        )
    path = parts.raw_path.decode("ascii").rstrip("/?").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc.decode('ascii')}{path or '/v1'}"


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine itself: localhost, 127.0.0.0/8, ::1 or [::1]."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_unencrypted(url: str) -> bool:
    """Say whether images would leave this machine in the clear; what stays on it may."""
    parts = httpx2.URL(url)
    return parts.scheme == "http" and not is_loopback(parts.host)


class Endpoint:
    """A model on a server.

    Attributes:
        name: What outputs call the model: no path of the server's machine.
        model: Its name there.
        revision: None: a server does not tell.
        demonstration: False, likewise.
        batch_size: Concurrent requests.
    """

    def __init__(
        self,
        url: str,
        *,
        sampling: Sampling,
        concurrency: int = 8,
        timeout: float = 120.0,
        key: str | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            url: What `check_endpoint` returned.
            sampling: How answers are sampled.
            concurrency: Concurrent requests.
            timeout: Seconds after which a silent server is given up.
            key: Sent as bearer token; never logged.

        Raises:
            ConfigError: The key holds what no header may.
            RunError: The environment's proxy for the server is no HTTP proxy.
        """
        self.url, self.sampling, self.batch_size = url, sampling, concurrency
        self.name, self.revision, self.demonstration = "", None, False
        self.model = ""
        self.retries = 4
        self.loading, self.unlisted = LOADING, UNLISTED
        self.first_wait = 1.0  # seconds; doubles with each try
        self._client = _build_client(httpx2.URL(url), timeout, (key or "").strip())
        self._refused: frozenset[str] = frozenset()  # fields that this server does not take
        self._failures = 0
        self._opens: bool | None = None  # whether its prompts open a thought; not known yet
        self._thinking = Lock()

    def connect(self, model: str | None) -> "Endpoint":
        """Reach the server, and choose the model: the one named, or the only one there.

        Raises:
            RunError: The server cannot be reached, refuses, or does not become ready.
            ConfigError: No model is named and there is not exactly one.
        """
        status, body = self._list_models()
        if status in (401, 403):
            raise RunError(f"{self.url}: rejects the API key; set MEDART_ENDPOINT_KEY ({status})")
        if status in REDIRECTS:
            raise RunError(
                f"{self.url}: redirects to {body.get('location')} ({status}), which is not "
                "followed; give that address with --endpoint if images may go there"
            )
        if status in RETRY_STATUS:
            raise RunError(f"{self.url}: is not ready ({status}: {_detail(body)}); wait for it")
        names = _model_names(body) if status == 200 else []
        if model is None and len(names) != 1:
            found = f"it lists {', '.join(names) or 'none'}"
            raise ConfigError(
                f"{self.url}: choose its model with --model; "
                f"{found if status == 200 else f'it has no list of models ({status})'}"
            )
        if status != 200:
            log.info("%s: has no list of models (%d); asking for %s", self.url, status, model)
        self.model = model or names[0]
        self.name = public_name(self.model)
        return self

    def _list_models(self) -> tuple[int, dict[str, Any]]:
        """Ask for the list of models, and wait while the server loads or the list is not there."""
        started, told = time.monotonic(), False
        while True:
            try:
                status, body = self._send("/models", None)
            except (httpx2.HTTPError, ValueError) as error:
                raise RunError(f"{self.url}: cannot be reached: {_reason(error)}") from error
            patience = self.loading if status in RETRY_STATUS else 0.0
            if status == 404 or status in REDIRECTS:
                patience = self.unlisted
            left = started + patience - time.monotonic()
            if left <= 0:
                return status, body
            if not told:
                log.info("%s: not ready (%d); waiting up to %.0f s", self.url, status, patience)
                told = True
            stop.check()
            time.sleep(min(IDLE, left))

    def ask(
        self, questions: Sequence[Question], *, greedy: bool = False
    ) -> Iterator[tuple[int, Answer] | None]:
        """Answer questions, several at a time, with retries.

        Args:
            questions: Any number of them.
            greedy: Ask for the likeliest tokens, whatever the temperature.

        Yields:
            Index of a question and its answer, as they come; None after each, and now and then
            while none comes, where a caller can stop and lose nothing.

        Raises:
            RunError: The server refuses in a way that no other image will change, cannot be
                reached, or fails on every request.
        """
        todo: SimpleQueue[int] = SimpleQueue()
        done: SimpleQueue[tuple[int, Answer | Exception]] = SimpleQueue()
        for index in range(len(questions)):
            todo.put(index)
        leave = Event()

        def work() -> None:
            while not leave.is_set():
                try:
                    index = todo.get_nowait()
                except Empty:
                    return
                try:
                    done.put((index, self._answer(questions[index], greedy, leave)))
                except Exception as error:  # noqa: BLE001 - raised again where it is awaited
                    done.put((index, error))
                    leave.set()  # afterwards: others that leave must not be heard first

        # Daemons: a request that hangs must not keep a stopped run from ending.
        for _ in range(min(self.batch_size, len(questions))):
            Thread(target=work, daemon=True).start()
        try:
            left = len(questions)
            while left:
                try:
                    index, answer = done.get(timeout=IDLE)
                except Empty:
                    yield None
                    continue
                left -= 1
                yield index, self._count(answer)
                yield None
        finally:
            leave.set()

    def _count(self, answer: Answer | Exception) -> Answer:
        if isinstance(answer, Exception):
            raise answer
        self._failures = self._failures + 1 if answer.error else 0
        if self._failures >= FAILURES_IN_A_ROW:
            raise RunError(
                f"{self.url}: failed on {self._failures} images in a row, last: {answer.error}; "
                "fix the server and run the same command again"
            )
        return answer

    def _answer(self, question: Question, greedy: bool, leave: Event) -> Answer:
        """Ask one question, again with growing waits while the failure may pass."""
        fields = self._fields(question, greedy)
        reason, wait = "", None
        for attempt in range(self.retries + 1):
            extra = self._extra(greedy)
            try:
                status, body = self._send("/chat/completions", fields | extra)
                if status == 200:
                    return self._read(body, fields | extra)
                reason, wait = f"returns {status}: {_detail(body)}", body.get("retry_after")
                if self._drop_refused(status, reason, extra):
                    continue
                if answer := self._refuse(status, body, reason):
                    return answer
            except (httpx2.HTTPError, ValueError) as error:
                reason, wait = _reason(error), None
            if attempt == self.retries or leave.wait(self._pause(attempt, wait)):
                break
        if reason == REFUSED:
            raise RunError(f"{self.url}: {reason}; start the server, run the same command again")
        return Answer("", error=f"{self.url}: {reason} ({self.retries + 1} attempts)")

    def _read(self, body: dict[str, Any], fields: dict[str, Any]) -> Answer:
        """Read a reply; of a model whose prompts open a thought, all is one until it closes.

        Such a thought has no mark where the token limit cut it, and it quotes the prompt. So the
        first answer that was cut is asked for again, once, with room for a thought to close.
        """
        answer = _read_answer(body)
        if answer.finished or not answer.text:
            return answer
        with self._thinking:
            if self._opens is None:
                self._opens = self._closes(fields)
        return _read_answer(body, opened="<think>") if self._opens else answer

    def _closes(self, fields: dict[str, Any]) -> bool:
        """Say whether an answer with room enough closes a thought that it has not opened."""
        more = {"max_tokens": ROOM_TO_THINK, "temperature": 0.0}
        try:
            status, body = self._send("/chat/completions", fields | more)
            said, _ = _read_content(body["choices"][0]["message"].get("content"))
        except (httpx2.HTTPError, ValueError) as error:
            reason = _reason(error)
        except (LookupError, TypeError, AttributeError):
            reason = f"returns {status}: {_detail(body)}"
        else:
            thinks = is_opened_before(said or "")
            if thinks:
                log.info("%s: its model thinks before it answers", self.url)
            return thinks
        log.warning("%s: cannot tell whether its model thinks aloud: %s", self.url, reason)
        return False

    def _drop_refused(self, status: int, reason: str, extra: dict[str, Any]) -> bool:
        """Leave out from now on what the server says that it does not take, if it says so."""
        if status not in (400, 422):
            return False
        # vLLM names `chat_template` where it cannot take arguments for one.
        named = {name for name in extra if name.removesuffix("_kwargs") in reason}
        self._refused |= named
        return bool(named)

    def _refuse(self, status: int, body: dict[str, Any], reason: str) -> Answer | None:
        """Return why an image gets no text, or None where asking again may help.

        Raises:
            RunError: No other image fares better.
        """
        if _is_filtered(body):
            return Answer("", error=f"{self.url}: {FILTERED} ({status})")
        if status in HOPELESS_STATUS:
            raise RunError(f"{self.url}: {reason}")
        if status not in RETRY_STATUS:
            return Answer("", error=f"{self.url}: {reason}")
        return None

    def _pause(self, attempt: int, asked: float | None) -> float:
        pause: float = self.first_wait * 2**attempt * random.uniform(0.5, 1)  # not all at once
        return min(LONGEST_WAIT, max(pause, asked or 0.0))

    def _fields(self, question: Question, greedy: bool) -> dict[str, Any]:
        content = [
            {"type": "image_url", "image_url": {"url": _inline(question.image)}},
            {"type": "text", "text": question.prompt},
        ]
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.sampling.max_new_tokens,
            "temperature": 0.0 if greedy else self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "seed": question.seed,
        }

    def _extra(self, greedy: bool) -> dict[str, Any]:
        """Word what OpenAI's own form lacks, in the words that this server has not refused.

        No thinking, which vLLM, SGLang and `transformers serve` hand to the chat template; and the
        limit on likeliest tokens, which `transformers serve` takes inside a `generation_config`.
        """
        extra: dict[str, Any] = {"chat_template_kwargs": NO_THINKING}
        if not greedy and self.sampling.temperature > 0:
            if "top_k" in self._refused:
                settings = {"do_sample": True, "top_k": self.sampling.top_k}
                extra["generation_config"] = json.dumps(settings)
            else:
                extra["top_k"] = self.sampling.top_k or -1  # vLLM and SGLang: -1 is all
        return {name: value for name, value in extra.items() if name not in self._refused}

    def _send(self, path: str, fields: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        """Send one request and return the status and the JSON object of the reply.

        Raises:
            httpx2.HTTPError: The connection failed, broke or was silent for too long.
            ValueError: The reply is no JSON object.
            RunError: The reply is a stream of events.
        """
        method, data = ("GET", None) if fields is None else ("POST", json.dumps(fields).encode())
        with self._client.stream(method, self.url + path, content=data) as reply:
            raw = next(reply.iter_bytes(LONGEST_REPLY), b"")  # the rest is never read
        streams = reply.headers.get("Content-Type", "").startswith("text/event-stream")
        if reply.is_success and (streams or raw.startswith(b"data:")):
            raise RunError(
                f"{self.url}: answers as a stream of events only, which is not read; turn "
                "streaming off at the server"
            )
        if reply.is_success:
            return reply.status_code, _read_object(raw)
        asked = reply.headers.get("Retry-After", "")
        wait = float(asked) if asked.isdigit() else None
        place = reply.headers.get("Location", "elsewhere")[:200]
        more = {"retry_after": wait, "location": place}
        return reply.status_code, _read_failure(raw) | more


def _build_client(url: httpx2.URL, timeout: float, key: str) -> httpx2.Client:
    """Build what the threads send requests through; it follows no redirect."""
    for library in ("httpx2", "httpcore2"):  # they log each request
        logging.getLogger(library).setLevel(logging.WARNING)
    headers = {"Content-Type": "application/json"}
    if key:
        if not re.fullmatch("[!-~]+", key):  # httpx2 would refuse it as well, and show it
            raise ConfigError(
                "MEDART_ENDPOINT_KEY: has a space, a line break or a non-ASCII character; fix it"
            )
        headers["Authorization"] = f"Bearer {key}"
    return httpx2.Client(
        headers=headers,
        timeout=timeout,
        # As many as there are threads: none waits for one that still hangs from an earlier `ask`.
        limits=httpx2.Limits(max_connections=None, keepalive_expiry=KEEP_IDLE),
        proxy=_find_proxy(url),
        verify=httpx2.create_ssl_context(trust_env=not is_loopback(url.host)),
        trust_env=False,
        follow_redirects=False,
    )


def _find_proxy(url: httpx2.URL) -> httpx2.URL | None:
    """Return the proxy that the environment names for this server; none for the loopback.

    httpx2 would also look at ALL_PROXY, and refuse to start over a proxy that nothing here uses.
    """
    if is_loopback(url.host) or proxy_bypass(url.netloc.decode("ascii")):
        return None
    named = getproxies().get(url.scheme)
    if named is None:
        return None
    proxy = _read_url(named if "://" in named else f"http://{named}")
    if proxy is None:
        raise RunError(
            f"{url}: cannot be reached: {url.scheme}_proxy is not of the form http://host:port; "
            "fix it, or add the server to no_proxy"
        )
    return proxy


def _read_url(text: str) -> httpx2.URL | None:
    """Read an http address as it is read when it is used, or return None where it is none."""
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL:
        return None
    whole = url.scheme in ("http", "https") and url.host and (url.port or 0) < 1 << 16
    return url if whole else None


def _inline(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)  # lossless: colors are what is described
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _read_object(raw: bytes) -> dict[str, Any]:
    body = json.loads(raw)
    if not isinstance(body, dict):
        raise ValueError("the reply is not a JSON object")
    return body


def _read_failure(raw: bytes) -> dict[str, Any]:
    try:
        return _read_object(raw)
    except ValueError:
        return {"detail": raw.decode("utf-8", "replace")}


def _read_answer(body: dict[str, Any], *, opened: str = "") -> Answer:
    """Read the text of a reply, or why there is none; thoughts are left out.

    Raises:
        ValueError: The reply holds neither.
    """
    try:
        choice = body["choices"][0]
        message, ending = choice["message"], choice.get("finish_reason")
        content = message.get("content")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError("the reply has no choices[0].message.content") from error
    if ending == "content_filter":
        return Answer("", error=FILTERED)
    said, thought = _read_content(content)
    thought = thought or bool(message.get("reasoning_content") or message.get("reasoning"))
    if said is None and isinstance(message.get("refusal"), str):
        said = message["refusal"]
    if said is None and not thought:
        raise ValueError("the reply has no text")
    said = (said or "").encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair is none
    text = strip_reasoning(said, opened=opened)
    thought = thought or bool(opened) or has_reasoning(said) or _spent_on_thoughts(body)
    return Answer(text, finished=ending != "length", only_reasoning=thought and not text)


def _read_content(content: object) -> tuple[str | None, bool]:
    """Return a message's text, None where it has none, and whether it holds a part of thoughts."""
    if isinstance(content, str):
        return content, False
    if not isinstance(content, list):
        return None, False
    parts = [part for part in content if isinstance(part, dict)]
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    thought = any(str(part.get("type")) in ("thinking", "reasoning") for part in parts)
    return "".join(texts) if texts else None, thought


def _spent_on_thoughts(body: dict[str, Any]) -> bool:
    """Say whether the reply counts tokens of thoughts that it does not show."""
    usage = body.get("usage")
    details = usage.get("completion_tokens_details") if isinstance(usage, dict) else None
    return bool(isinstance(details, dict) and details.get("reasoning_tokens"))


def _is_filtered(body: dict[str, Any]) -> bool:
    error = body.get("error")
    found = [error.get("code"), error.get("type")] if isinstance(error, dict) else []
    return "content_filter" in found or "content_policy_violation" in found


def _model_names(body: dict[str, Any]) -> list[str]:
    models = body.get("data")
    found = [item.get("id") for item in models or [] if isinstance(item, dict)]
    return [name for name in found if isinstance(name, str)]


def _detail(body: dict[str, Any]) -> str:
    error = body.get("error") or body.get("detail") or body.get("message") or ""
    text = error.get("message", "") if isinstance(error, dict) else error
    return " ".join(str(text).split())[:200]


def _reason(error: httpx2.HTTPError | ValueError) -> str:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, httpx2.TimeoutException):
        return "no reply in time"
    if isinstance(error, (httpx2.ProtocolError, httpx2.DecodingError)):
        return f"broken reply ({text})"
    if isinstance(error, httpx2.ProxyError):
        return f"Tunnel connection failed: {text}"
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return "the reply is not JSON"
    # httpx2 keeps the text of the socket's error, not the error.
    return REFUSED if f"[Errno {ECONNREFUSED}]" in text else text
