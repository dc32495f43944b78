"""Who may talk to the server: everything is asked here first, pages, pictures and websockets alike."""

import hashlib
import hmac
import urllib.parse
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eval.serve.addresses import is_loopback
from eval.serve.context import MAX_UPLOAD_BYTES

_HEADERS: Final = {
    # NiceGUI starts its pages by scripts inside them and makes functions of texts, so neither can be forbidden; what
    # counts is that nothing is loaded from or sent to anywhere else.
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval';"
    " style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_POLICY_VIOLATED: Final = 1008  # how a websocket is closed (RFC 6455)


class Guard:
    """Lets through to an app what comes from its own pages, and where a token is set, from who knows it."""

    def __init__(self, app: ASGIApp, *, token: str | None) -> None:
        """Stand before an app.

        Args:
            app: what is guarded.
            token: what every request must bring: in the address once, from then on by a cookie. None: requests must be
                addressed to this machine by a name of its own, which another site's cannot be.
        """
        self._app = app
        self._token = token
        # A cookie that is found tells nothing of the token, which may serve elsewhere too.
        self._cookie = hmac.new(token.encode(), b"vmem serve", hashlib.sha256).hexdigest() if token else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            if scope["type"] == "websocket":
                return await send({"type": "websocket.close", "code": _POLICY_VIOLATED})
            return await refusal(scope, receive, _with_headers(send))
        await self._app(scope, _limited(receive), _with_headers(send))

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if self._token is None and not is_loopback(urllib.parse.urlsplit(f"//{host}").hostname or ""):
            return _refuse(403, "This server answers on this machine's own names only, such as 127.0.0.1.")
        origin = headers.get("origin")
        if origin is not None and urllib.parse.urlsplit(origin).netloc != host:
            return _refuse(403, "Another site's page asked for this: refused.")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_UPLOAD_BYTES:
            return _refuse(413, f"Too large: {MAX_UPLOAD_BYTES // 2**20} MiB at most.")
        return None if self._token is None else self._unknown(scope, headers)

    def _unknown(self, scope: Scope, headers: Headers) -> Response | None:
        """Return what is answered to who does not bring the token in a cookie; None to who does."""
        name = f"vmem_{(scope.get('server') or ('', 0))[1]}"  # cookies do not tell ports apart
        if _equal(cookie_parser(headers.get("cookie", "")).get(name, ""), self._cookie):
            return None
        asked = urllib.parse.parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = next((value for key, value in asked if key == "token"), "")
        if scope["type"] != "http" or not _equal(given, self._token or ""):
            return _refuse(401, "A token is needed: open the address that `vmem serve` printed.")
        # Away from the address: it stays in no history, and in nothing that is copied from the address bar.
        rest = urllib.parse.urlencode([(key, value) for key, value in asked if key != "token"])
        path = "/" + urllib.parse.quote(scope["path"].lstrip("/\\"))
        answer = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
        answer.set_cookie(name, self._cookie, httponly=True, samesite="strict")
        return answer


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _refuse(status: int, sentence: str) -> Response:
    return PlainTextResponse(sentence + "\n", status)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(_HEADERS)
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending


def _limited(receive: Receive) -> Receive:
    """Return what breaks a request off that sends more than it may, whatever it said before."""
    taken = 0

    async def receiving() -> Message:
        nonlocal taken
        message: dict[str, Any] = dict(await receive())
        taken += len(message.get("body", b""))
        return (
            {"type": "http.disconnect"} if taken > MAX_UPLOAD_BYTES and message["type"] == "http.request" else message
        )

    return receiving
