"""Requests and responses of the API. Requests are strict: unknown fields and values of another type are errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

MAX_LOGPROBS = 20
MAX_STOP_STRINGS, MAX_STOP_CHARACTERS = 16, 200
MAX_SEED = 2**53 - 1
MAX_NEXT_TOKENS = 100


def float_to_int(value: Any) -> Any:
    """1.0 as 1: JSON does not distinguish them."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def as_list(value: Any) -> Any:
    """A single text as a list."""
    return [value] if isinstance(value, str) else value


def check_prompt(value: Any) -> Any:
    """A text, ids, or a list of either; errors name the first wrong item."""
    items = value if isinstance(value, list) else [value]
    if not items:
        raise ValueError("the list is empty")
    if isinstance(value, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        return [items]
    for item in items:
        ids = isinstance(item, list) and item and all(isinstance(i, int) and not isinstance(i, bool) for i in item)
        if not isinstance(item, str) and not ids:
            raise ValueError("use a text, a list of texts, a list of token ids, or a list of such lists")
    return items


WHOLE = BeforeValidator(float_to_int)
Ids = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
Text = {"type": "string"}
Prompts = Annotated[
    list[Any],
    BeforeValidator(check_prompt),
    WithJsonSchema({"anyOf": [Text, Ids, *({"type": "array", "items": item, "minItems": 1} for item in (Text, Ids))]}),
]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
StopSchema = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS}
StopStrings = Annotated[
    list[StopString],
    Field(fail_fast=True, max_length=MAX_STOP_STRINGS),
    BeforeValidator(as_list),
    WithJsonSchema({"anyOf": [StopSchema, {"type": "array", "items": StopSchema, "maxItems": MAX_STOP_STRINGS}]}),
]
Texts = Annotated[list[str], Field(fail_fast=True, min_length=1)]
OneOrMoreTexts = Annotated[
    Texts, BeforeValidator(as_list), WithJsonSchema({"anyOf": [Text, {"type": "array", "items": Text, "minItems": 1}]})
]


class ApiRequest(BaseModel):
    """A request names the model that answers it."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: str | None = Field(None, description="Id of a model of /v1/models; by default the first.")


class StreamOptions(BaseModel):
    """OpenAI's options of a stream."""

    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool = False


class CompletionRequest(ApiRequest):
    """Continue texts: OpenAI's completions, and `top_k`."""

    prompt: Prompts
    max_tokens: Annotated[int, Field(ge=0), WHOLE] | None = Field(
        None, description="Maximum number of new tokens. Default: 16."
    )
    temperature: Annotated[float, Field(ge=0, le=100)] | None = Field(None, description="0: greedy. Default: 1.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0), WHOLE] | None = Field(None, description="Sample from the k most likely; 0: all.")
    n: Annotated[int, Field(ge=1), WHOLE] | None = Field(None, description="Continuations of each prompt.")
    seed: Annotated[int, Field(ge=0, le=MAX_SEED), WHOLE] | None = Field(None, description="Choice i uses seed + i.")
    stop: StopStrings | None = Field(None, description="The text ends before the first of these.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS), WHOLE] | None = None
    echo: bool | None = Field(None, description="Return the prompt, as the model reads it, before the continuation.")
    return_token_ids: bool | None = Field(None, description="Also the ids: the prompt's come first.")
    best_of: Annotated[int, Field(ge=1), WHOLE] | None = Field(None, description="Only the value of `n`.")
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = Field(None, description="Only 0.")
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = Field(None, description="Only 0.")
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = Field(None, description="Only empty.")
    suffix: Annotated[str, Field(max_length=0)] | None = Field(None, description="Only empty.")
    user: str | None = Field(None, description="Ignored.")


RowInput = Annotated[dict[str, Any] | str, WithJsonSchema({"anyOf": [{"type": "object"}, Text]})]


class ClassifyRequest(ApiRequest):
    """Predict rows of the task that a model was fine-tuned for."""

    rows: Annotated[list[RowInput], Field(fail_fast=True, min_length=1)] = Field(
        description="Rows as objects by column, or as texts if the task has one text column."
    )
    explain: bool = Field(False, description="Also what each word contributed (by occlusion).")
    label: str | None = Field(None, description="The label to explain; by default the most likely one of each row.")
    layout: bool = Field(False, description="Also the token sequences as the model reads them (figure 1).")


class NextRequest(ApiRequest):
    """The most likely next tokens of a text."""

    text: str
    ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(fail_fast=True)] = Field(
        [], description="Tokens after the text, such as those chosen so far: as ids, they need not end a word."
    )
    top: Annotated[int, Field(ge=1, le=MAX_NEXT_TOKENS), WHOLE] = 10


class ScoreRequest(ApiRequest):
    """Log-probabilities of texts, token by token. Each is scored as a separate document: after a newline."""

    texts: Texts
    top: Annotated[int, Field(ge=0, le=MAX_LOGPROBS), WHOLE] = Field(
        0, description="Alternatives to report at each token."
    )


class AttentionRequest(ApiRequest):
    """The attention of a layer and head over a text."""

    text: str
    layer: Annotated[int, Field(ge=0), WHOLE] = 0
    head: Annotated[int, Field(ge=0), WHOLE] = 0
    token: Annotated[int, Field(ge=0), WHOLE] | None = Field(None, description="Only the row of this token.")


class EmbeddingRequest(ApiRequest):
    """A vector for each text, in OpenAI's shape."""

    input: OneOrMoreTexts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1), WHOLE] | None = Field(None, description="Only the width of the model.")
    user: str | None = Field(None, description="Ignored.")


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int


class Logprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class Choice(BaseModel):
    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["length", "stop"] | None
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None


class CompletionResponse(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class Classification(BaseModel):
    index: int
    prediction: str | bool | int | float | list[str] | None = None
    note: str | None = Field(None, description="Why there is no prediction: the row has no text.")
    probabilities: dict[str, float] | None = None
    score: float | None = None
    explanation: dict[str, Any] | None = None
    layout: list[list[str]] | None = None


class ClassifyResponse(BaseModel):
    object: Literal["list"]
    model: str
    data: list[Classification]
    usage: Usage


class TokenProbability(BaseModel):
    token: str
    id: int
    probability: float


class ContinuedText(BaseModel):
    text: str
    tokens: list[str]


class NextResponse(BaseModel):
    object: Literal["list"]
    model: str
    data: list[TokenProbability]
    continuation: ContinuedText | None = None
    usage: Usage


class TokenAlternative(BaseModel):
    token: str
    id: int
    log_probability: float


class ScoredToken(TokenAlternative):
    rank: int
    top: list[TokenAlternative]


class TextScore(BaseModel):
    index: int
    log_probability: float
    perplexity: float | None
    bits_per_byte: float | None
    tokens: list[ScoredToken]


class ScoreResponse(BaseModel):
    object: Literal["list"]
    model: str
    data: list[TextScore]
    usage: Usage


class AttentionResponse(BaseModel):
    model: str
    layer: int
    head: int
    tokens: list[str]
    weights: list[list[float]]


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingResponse(BaseModel):
    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: Usage


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    error: ErrorDetail


class ModelInfo(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    loaded: bool
    details: dict[str, Any] | None = None


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelInfo]
