"""What a log may keep of an error: words that all errors have, and none that can only be a prompt's or an answer's.

The trap: upstreams quote. A refusal holds the message that it refuses, a parser the answer that it could not read, and
of the latter we may never have seen a word: what stands in a request cannot be told from what does not by looking at
the request. So the words that stay are the known ones, and everything else is an ellipsis.
"""

from __future__ import annotations

import re
from itertools import pairwise

from wire.errors import BadRequest, Fault, NotAsAsked
from wire.fields import FIELDS

MOST = 200
"""Characters that are kept."""
GAP = "…"

_ALL_ERRORS_HAVE = """
a about above after again all allowed already also although always am an and another any are as at away back be because
been before begin begins being below between both but by can cannot contains could did do does doing don done down due
during each either else end ended ends enough even every exactly few first fix for found from full further get give
given gives go goes got had has have having here how however if in inside instead into is isn it its itself just last
later least left less like long longer looking low lower made make many match matching may means might more most must
near need needs neither never new next no none nor not nothing now of off often ok on once one only open or other our
out outside over own per please present previous quickly rather reach reached remove same see send sent several shall
short should since slow small smaller so some soon still stop stopped such take taken takes than that the their them
then there these they this those through time times to too took tried try trying turn turned two under unless until up
upon us use used uses using very wait waiting want was way we were what when where whether which while who why will with
within without won would yet you your

abort aborted accept accepted access account activate activation active add additional address afford aggregate alive
allocate allocated allocating allocation alternate ambiguous amount api apikey argument arguments array assert assertion
assistant async attempt attempted attempts attention audio auth authentication authorization authorized auto available
backend bad balance bandwidth base base64 batch beginning beta billing blank block blocked body bool boolean bound
bracket broke broken budget buffer bug build busy byte bytes cache cached call called calls cancel canceled cancelled
capability capacity certificate change channel character characters chat check checksum choice choices chunk client
close closed code comma command compiled complete completed completion completions compute concurrency concurrent
concurrently config configuration configured conflict connect connected connecting connection connections constraint
consumed content context contiguous control conversation copy core corrupt cost cpu create created credential
credentials credit credits cuda cudamalloc current currently cut daily data database day days deadline decode decoding
deepseek default delimiter denied dense deployment deprecated describe detail details device dict dictionary different
digit disabled disallowed disconnect disk dns document domain download driver duplicate early element embed embedding
embeddings empty enable enabled encode encoding encountered endpoint engine entity entry enum environment eof err errno
error errors escape estimated event exceed exceeded exceeds exception exceptions exhausted exist existing exists exit
exited expect expected expired expires external extra fail failed failing fails failure false family fatal fetch field
fields file files filter final find finish finished flagged float forbidden form format forward frequency function
functions gateway gb generate generated generating generation ggml gguf gib gpu grammar graph group handle handler
handshake hardware header headers heap high higher host hour hours http https id identifier ids ignored image images
implemented import incompatible incomplete incorrect increase increasing index inference initialization initialize
initializing inner input inputs insufficient insufficient_quota integer interface internal interrupted invalid
invalid_request_error io issue item items iteration job json kernel key keys keyword kind kv language large larger
latency layer layers length level library limit limited limiting limits line list listening literal llama llm load
loaded loading local location lock log login logits logprobs machine malformed malloc map max maximum mb measure media
memory merge message messages metal method mib middle min minimum minute minutes mismatch missing mode model models
moderation modify monthly ms multimodal multiple n_batch n_ctx n_keep n_predict n_prompt_tokens name names nan negative
network node non null number numbers object objects offset ollama oom openai operation option options order organization
output overflow overload overloaded owner page parallel parameter parameters parse parsed parser parsing part parts pass
passed password path payment peer pending permission permissions permitted pipe plan policy pool port position possible
post prefill prefix prefixes premature premium prepare process processed processing project prompt prompts properties
property protocol provide provided provider proxy pull pulling purchase quantization query queue queued quota quoted
range rate raw read reading ready reason reasoning receive received recent recharge redirect reduce refused region
registry reject rejected release remaining remote repeat repeated replica request requested requests require required
requires reserved reset resource resources respond response rest restart restarted result results retry retrying return
returned role rows rpd rpm run runner running runtime safety sampler sampling scheduled scheduler schema second seconds
section secure seed segmentation sequence sequences server servers service session set setting settings severe shape
shutdown shutting sign signal size slot slots socket space speech spent split ssl stack start started starting startup
state status steps storage store stream streaming string strings structure subscription succeeded success suffix support
supported supports suspended swap syntax system tag temporarily temporary tensor terminated test text thinking thread
threads throttled throttling timed timeout tls token tokenize tokenizer tokens tool tool_call tool_calls top tpd tpm
trace traffic trailing transcription transport true truncated truncating type types unable unauthorized unavailable
undefined unexpected unhandled unicode unique unknown unload unloaded unmarshal unreachable unrecognized unspecified
unsupported unterminated update upgrade upload upstream url usage user users utf utf8 valid validate validation value
values variable vector verify version violation vision visit vllm vram warming warning weights width window worker
workers wrapper write writing wrong zero
"""
_WORDS = frozenset((*_ALL_ERRORS_HAVE.split(), *(part for name in FIELDS for part in name.split("_"))))
_OF_UNITS = """
b kb mb gb tb kib mib gib tib byte bytes token tokens char chars character characters ms s sec second seconds min minute
minutes h hour hours day days request requests rpm tpm rpd tpd percent item items level levels usd
"""
_UNITS = frozenset(_OF_UNITS.split())
_BEFORE_NUMBERS = """
code column error exit got http least length limit line maximum max minimum min most n_batch n_ctx n_prompt_tokens
number offset port position requested signal size status than used version
"""
_COUNTED = frozenset(_BEFORE_NUMBERS.split())
_PLACE = re.compile(r"\[\d{1,4}\]")
_PARTS = re.compile(r"[^\W\d_](?:\w*[^\W_])?|\d+|\w")
_NUMBER = re.compile(r"\W*\d{1,3}(?:[,.]?\d{1,3}){0,3}([a-zA-Z%]{0,3})\W*")


def plain_words(text: str) -> str:
    """What may be kept of a text that others wrote: at most MOST characters, "" where no word of it is known.

    A number stays where it counts something that errors count ("5.1 GiB", "status 500", "Limit 30000").
    """
    kept: list[str] = []
    size, known, before = 0, False, ""
    chunks = text[: 4 * MOST].split()
    for place, chunk in enumerate(chunks):
        parts = _parts(chunk)
        after = _parts(chunks[place + 1])[:1] if place + 1 < len(chunks) else []
        good = _is_plain(chunk, parts, before, after[0] if after else "")
        before = parts[-1] if parts else ""
        word = chunk if good else GAP
        if word == GAP and kept[-1:] == [GAP]:
            continue
        size += len(word) + 1
        if size > MOST:
            break
        known = known or (good and bool(parts))
        kept.append(word)
    return " ".join(kept) if known else ""


def _parts(chunk: str) -> list[str]:
    """The words and numbers of what stands between two blanks; a place in an array is none."""
    return [part.casefold() for part in _PARTS.findall(_PLACE.sub("", chunk))]


def _is_plain(chunk: str, parts: list[str], before: str, after: str) -> bool:
    number = _NUMBER.fullmatch(chunk)
    if number is not None:
        unit = number[1].casefold()
        return unit in _UNITS or unit == "%" or (not unit and (after in _UNITS or before in _COUNTED))
    if not parts:
        return chunk.isascii()
    return all(_is_known(part) or (part.isdecimal() and last in _COUNTED) for last, part in pairwise(("", *parts)))


def _is_known(part: str) -> bool:
    return part in _WORDS or ("_" in part and all(piece in _WORDS for piece in part.split("_")))


def logged(fault: Fault) -> str:
    """A fault's message as a log may keep it. The caller, whose words they are, is told all of it."""
    if fault.kept is not None:
        return fault.kept
    if isinstance(fault, NotAsAsked):  # names the properties of an answer
        return plain_words(fault.message) or "answered with something else than was asked for"
    return _without_values(fault.message) if isinstance(fault, BadRequest) else fault.message


def _without_values(message: str) -> str:
    """Our own words about a request name its fields, which stay, and what stands in them, which does not."""
    return _QUOTED.sub(lambda found: found[0] if _is_name(found[2]) else f"{found[1]}{GAP}{found[1]}", message)


def _is_name(quoted: str) -> bool:
    return all(_is_known(part) for part in _parts(quoted))


_QUOTED = re.compile(r"(?<!\w)(['\"])(.*?)\1(?!\w)", re.DOTALL)
