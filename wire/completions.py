"""/v1/completions, the endpoint before chat: the request, its check, and the parts it is asked in.

The trap is in the counts. `prompt` may be a list, each prompt has `n` answers, and `best_of` of them are made for the
best to be chosen: prompt 2 of three prompts with n = 2 has the choices 4 and 5. And the default of `max_tokens` is 16,
which callers of this endpoint rely on. Facts: openai_api section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from wire.check import (
    InvalidValue,
    check_fields,
    check_model,
    check_stream,
    integer,
    number_between,
    of_type,
    stop_strings,
)
from wire.inputs import Inputs, chars_of, read_inputs
from wire.openai import Json, ModelRequest
from wire.parts import Part, another_seed

MAX_TOKENS = 16
"""OpenAI's default. Servers have others, or none."""
MAX_CHOICES = 2048
"""Answers that one request may have the servers make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest(ModelRequest):
    """A checked request for completions."""

    operation: ClassVar[str] = "completions"
    prompts: Inputs

    @property
    def n(self) -> int:
        """How many answers each prompt shall have."""
        return self.body.get("n") or 1

    @property
    def best_of(self) -> int:
        """How many answers are made for each prompt, for the best of them to be given."""
        return self.body.get("best_of") or self.n

    @property
    def choices(self) -> int:
        return len(self.prompts) * self.n

    @property
    def samples(self) -> int:
        """How many answers are made in all."""
        return len(self.prompts) * self.best_of

    @property
    def max_tokens(self) -> int:
        """What is left to say, where the answer has begun."""
        asked = self.body.get("max_tokens")
        limit = MAX_TOKENS if asked is None else asked
        return limit if self.prefill is None else self.prefill.limit(limit)

    @property
    def logprobs(self) -> int | None:
        """For how many tokens in each place the probability is asked for; None: for none, not even the chosen one's."""
        asked: int | None = self.body.get("logprobs")
        return asked

    @property
    def echo(self) -> bool:
        """Whether the answer's text begins with the prompt's."""
        return bool(self.body.get("echo"))


def check_completion(body: Json) -> CompletionRequest:
    """A request that every dialect can rely on; raises BadRequest with `param`."""
    model = check_model(body)
    prompts = read_inputs("prompt", body.get("prompt"), may_be_empty=True)
    check_fields(body, _FIELDS)
    stream, include_usage = check_stream(body)
    request = CompletionRequest(
        body=body,
        model=model,
        stream=stream,
        include_usage=include_usage,
        prompt_chars=chars_of(prompts) + len(body.get("suffix") or ""),
        prompts=prompts,
    )
    if request.best_of < request.n:
        raise InvalidValue(
            f"'best_of' is {request.best_of}, but 'n' asks for {request.n} answers: it must be at least as large.",
            param="best_of",
        )
    if stream and request.best_of > request.n:
        raise InvalidValue(
            "'best_of' cannot be streamed: which answer is the best is known when all are complete.", param="best_of"
        )
    if request.samples > MAX_CHOICES:
        raise InvalidValue(
            f"'prompt', 'n' and 'best_of' ask for {request.samples} answers; one request may ask for {MAX_CHOICES}.",
            param="prompt",
        )
    return request


_FIELDS: Mapping[str, Callable[[str, Any], None]] = {
    "suffix": of_type(str, "a string"),
    "stream": of_type(bool, "true or false"),
    "stream_options": of_type(dict, "an object"),
    "temperature": number_between(0, 2),
    "top_p": number_between(0, 1),
    "frequency_penalty": number_between(-2, 2),
    "presence_penalty": number_between(-2, 2),
    "max_tokens": integer(0),
    "n": integer(1, 128),
    "best_of": integer(0, 20),
    "logprobs": integer(0, 5),
    "echo": of_type(bool, "true or false"),
    "seed": integer(),
    "stop": stop_strings,
    "logit_bias": of_type(dict, "an object"),
}


def split_completion(request: CompletionRequest) -> tuple[Part, ...]:
    """One part per answer, none where there is one only. Their choices are numbered as they are made: `best_of` for
    each prompt, of which the answer keeps the best by their probabilities, so those are asked for.

    A seed is counted up: with the same one all answers to a prompt would be equal.
    """
    if request.samples == 1:
        return ()
    common = {name: value for name, value in request.body.items() if name not in ("n", "best_of")}
    if request.best_of > request.n and request.logprobs is None:
        common["logprobs"] = 0
    seed = request.body.get("seed")
    parts: list[Part] = []
    for number, prompt in enumerate(request.prompts):
        for sample in range(request.best_of):
            body = common | {"prompt": prompt}
            if seed is not None:
                body["seed"] = another_seed(seed, sample)
            chars = chars_of([prompt]) + len(body.get("suffix") or "")
            part = replace(request, body=body, prompts=(prompt,), prompt_chars=chars)
            parts.append(Part(part, choice=len(parts), prompt=number))
    return tuple(parts)
