"""Validates calls of the page's functions and rebuilds them from the validated parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from ntensor.faces.common.errors import PageError

from .folder import Folder
from .parts import LARGEST_WEIGHT, OFFERED

_Strict = pydantic.ConfigDict(strict=True)
_WEIGHT = pydantic.TypeAdapter(
    Annotated[float, pydantic.Field(strict=True, ge=0, le=LARGEST_WEIGHT, allow_inf_nan=False)]
)


class _Selected(pydantic.BaseModel):
    model_config = _Strict
    index: Annotated[int, pydantic.Field(ge=0, lt=OFFERED)]


class _Uploaded(pydantic.BaseModel):
    model_config = _Strict
    path: str


class _Call(pydantic.BaseModel):
    model_config = _Strict
    fn_index: int
    session_hash: Annotated[str, pydantic.Field(pattern=r"^[0-9a-z]{1,64}$")]
    data: list[Any]
    event_data: Any = None
    trigger_id: int | None = None


class Calls:
    """The calls that a page accepts.

    Args:
        functions (mapping): by index of a function, the kind of each input, `"weight"` or
            `"upload"`.
        selecting (set): the functions that take the index of the selected face.
        folder (Folder): holds the uploads.
    """

    def __init__(
        self, functions: Mapping[int, list[str]], selecting: set[int], folder: Folder
    ) -> None:
        self.functions, self.selecting, self.folder = functions, selecting, folder

    def check(self, body: bytes) -> bytes:
        """Validates the JSON of a call, and drops everything that the page does not use.

        Raises:
            PageError: an unknown function, or inputs of the wrong number, kind or size.
        """
        try:
            call = _Call.model_validate_json(body)
            if call.fn_index not in self.functions:
                raise PageError(f"the page has no function {call.fn_index}")
            kinds = self.functions[call.fn_index]
            if len(kinds) != len(call.data):
                raise PageError(
                    f"function {call.fn_index} takes {len(kinds)} inputs, got {len(call.data)}"
                )
            call.data = [
                self._check_upload(value) if kind == "upload" else _WEIGHT.validate_python(value)
                for kind, value in zip(kinds, call.data, strict=True)
            ]
            selected = None
            if call.fn_index in self.selecting:
                index = _Selected.model_validate(call.event_data).index
                selected = {"index": index, "value": None}
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            place = "".join(f"{part}: " for part in first["loc"])
            raise PageError(f"an unknown call: {place}{first['msg']}") from error
        return call.model_copy(update={"event_data": selected}).model_dump_json().encode()

    def _check_upload(self, value: Any) -> dict[str, Any]:
        path = _Uploaded.model_validate(value).path
        if not self.folder.holds(path):
            raise PageError("no such upload; upload the picture again")
        return {"path": path, "meta": {"_type": "gradio.FileData"}}
