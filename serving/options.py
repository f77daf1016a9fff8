"""`[student.vllm]`: how vLLM is launched."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class VllmOptions(BaseModel):
    """What vLLM is started with. Everything that is left out is vLLM's own default."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str = Field(description="Folder of the model in Hugging Face layout.")
    served_model_name: str = Field("student", description="The name it is served under.")
    host: str = Field("127.0.0.1", description="Address that vLLM listens on; keep it private.")
    port: int = Field(8101, ge=1, le=65535, description="Port that vLLM listens on.")

    @property
    def base_url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"
