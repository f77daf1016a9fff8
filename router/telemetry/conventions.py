"""Names of the semantic conventions, in one place because they still change.

Source: GenAI conventions as of opentelemetry-semantic-conventions 0.66b2 (November 2026), and the stable HTTP ones. Our
own attributes start with `locum.`. No name here ever holds a prompt, an answer, a tenant, a header or a key.
"""

from __future__ import annotations

from urllib.parse import urlsplit

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
ENCODING_FORMATS = "gen_ai.request.encoding_formats"
DIMENSIONS = "gen_ai.embeddings.dimension.count"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS = "gen_ai.usage.cache_creation.input_tokens"
REASONING_TOKENS = "gen_ai.usage.reasoning.output_tokens"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - the name of an attribute
SERVER_ADDRESS, SERVER_PORT = "server.address", "server.port"
ERROR_TYPE = "error.type"
HTTP_METHOD, HTTP_ROUTE, HTTP_STATUS = "http.request.method", "http.route", "http.response.status_code"

TOKEN_BUCKETS = [4.0**power for power in range(14)]
DURATION_BUCKETS_S = [0.01 * 2**power for power in range(14)]
FIRST_TOKEN_BUCKETS_S = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
PER_TOKEN_BUCKETS_S = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5]

EMBEDDINGS = "embeddings"
OPERATIONS = {"/v1/completions": "text_completion", "/v1/embeddings": EMBEDDINGS}
"""Of endpoints that are not `chat`."""
_PROVIDERS = (
    ("api.openai.com", "openai"),
    ("openai.azure.com", "azure.ai.openai"),
    ("services.ai.azure.com", "azure.ai.inference"),
    ("api.anthropic.com", "anthropic"),
    ("generativelanguage.googleapis.com", "gcp.gemini"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("amazonaws.com", "aws.bedrock"),
    ("api.cohere.com", "cohere"),
    ("api.deepseek.com", "deepseek"),
    ("api.groq.com", "groq"),
    ("api.mistral.ai", "mistral_ai"),
    ("api.moonshot.ai", "moonshot_ai"),
    ("api.perplexity.ai", "perplexity"),
    ("api.x.ai", "x_ai"),
)


def operation_of(path: str) -> str:
    """Of one of our endpoints."""
    return OPERATIONS.get(path, "chat")


def provider_of(base_url: str) -> str:
    """Whose API a backend speaks: the conventions want the best guess, and for an unknown host that is OpenAI's."""
    host = urlsplit(base_url).hostname or ""
    return next((name for known, name in _PROVIDERS if host == known or host.endswith(known)), "openai")


def address_of(base_url: str) -> dict[str, str | int]:
    parts = urlsplit(base_url)
    return {SERVER_ADDRESS: parts.hostname or "", SERVER_PORT: parts.port or (443 if parts.scheme == "https" else 80)}
