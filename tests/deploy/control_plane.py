"""A stand-in for Modal's control plane on the loopback interface: it says yes to everything and keeps what it was sent.

`modal deploy` speaks to it as it does to Modal, and what it would have had Modal run can be read from `calls`.
"""

import asyncio
import base64
import functools
import json
import socket
import threading
import time
from collections import defaultdict
from types import TracebackType
from typing import Any, Self
from unittest.mock import Mock

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from grpclib.const import Handler
from grpclib.server import Server, Stream
from modal_proto import api_pb2
from modal_proto.api_grpc import ModalClientBase

_PREFIXES = {
    "app_id": "ap", "environment_id": "en", "function_id": "fu", "image_id": "im", "mount_id": "mo", "secret_id": "st",
    "volume_id": "vo", "class_id": "cs", "object_id": "ob",
}  # fmt: skip


class ControlPlane:
    """Serves between `with` and its end, in a thread of its own; `url` is what MODAL_SERVER_URL is set to.

    `server_url` is what it says when it is asked where a deployed server can be reached.
    """

    def __init__(self, server_url: str = "") -> None:
        self._server_url = server_url
        self.calls: defaultdict[str, list[Any]] = defaultdict(list)
        self.url = ""
        self._ids = 0
        self._up = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)
        self._loop.close()

    def handlers(self) -> dict[str, Handler]:
        """Every method of the service as the package describes it, each answered by `_answer`."""
        described: dict[str, Handler] = ModalClientBase.__mapping__(Mock())
        return {
            path: Handler(
                functools.partial(self._answer, path.rsplit("/", 1)[1], handler.reply_type),
                handler.cardinality,
                handler.request_type,
                handler.reply_type,
            )
            for path, handler in described.items()
        }

    async def _serve(self) -> None:
        server = Server([_Methods(self.handlers())])
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            await server.start(sock=listener.dup())
        self._up.set()
        await self._end.wait()
        server.close()
        await server.wait_closed()

    async def _answer(self, name: str, reply_type: type[Message], stream: Stream[Any, Any]) -> None:
        request = await stream.recv_message()
        self.calls[name].append(request)
        reply = reply_type()
        self._name(reply)
        self._say_yes(name, request, reply)
        await stream.send_message(reply)

    def _name(self, reply: Message) -> None:
        """Made-up ids of the kinds that the client checks for."""
        for field in reply.DESCRIPTOR.fields:
            if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated and field.name in _PREFIXES:
                self._ids += 1
                setattr(reply, field.name, f"{_PREFIXES[field.name]}-{self._ids}")

    def _say_yes(self, name: str, request: Any, reply: Any) -> None:
        match name:
            case "AuthTokenGet":
                reply.token = _token()
            case "EnvironmentGetOrCreate":
                reply.metadata.settings.image_builder_version = "2025.06"
            case "ImageGetOrCreate" | "ImageJoinStreaming":
                reply.result.status = api_pb2.GenericResult.GENERIC_STATUS_SUCCESS
            case "MountPutFile":
                reply.exists = True
            case "FunctionCreate":
                reply.function_id = request.existing_function_id or reply.function_id
                reply.handle_metadata.function_name = request.function.function_name
                reply.function_data.ranked_functions.add()
                if self._server_url:
                    reply.handle_metadata._experimental_flash_urls.append(self._server_url)
            case "AppPublish":
                reply.url = "https://modal.invalid/apps/lyre"


class _Methods:
    """What grpclib wants of a service."""

    def __init__(self, mapping: dict[str, Handler]) -> None:
        self._mapping = mapping

    def __mapping__(self) -> dict[str, Handler]:
        return self._mapping


def _token() -> str:
    """Unsigned, and good for an hour."""
    parts = ({"alg": "none"}, {"exp": int(time.time()) + 3600})
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, "unsigned"])
