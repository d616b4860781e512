"""The tokenizer of a GGUF file: byte-level pairs by the package tokenizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fewstep.core.echo import shown
from fewstep.likelihood.gguf.header import BrokenGGUFError, GGUFHeader

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers import PreTrainedTokenizerBase

_INSTEAD = "convert the model to a folder of safetensors with its tokenizer.json, and name that as hf:FOLDER"
_CONTROL = 3
"""Type of tokens that steer a model and are no text."""
_SPLITS = {
    "gpt-2": "words",
    "smollm": "digits",
    "starcoder": "digits",
    "refact": "digits",
    "llama-bpe": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    ),
}
"""How text is divided before pairs are merged, by the file's name for it: as GPT-2 does, the same with every digit on
its own, or by an expression. Names and expressions are those of llama.cpp (src/llama-vocab.cpp)."""
PROBE = (
    "In 1984 it cost $12.50 (or 9%), didn't it?  \"No,\" she said; 'tis false!\n\n\tThe year 70 A.D. was – 'cause "
    "why not – a naïve café's. x=[1, 2]; y = {3: 'z'} # @-@ <unk> Amen.\n"
)
"""Text that must come back from a tokenizer unchanged."""


def build_tokenizer(file: GGUFHeader) -> PreTrainedTokenizerBase:
    """transformers' PreTrainedTokenizerFast with the tokens and merges of a file.

    transformers does not know all divisions, such as that of SmolLM, and takes GPT-2's for them without a word.

    Raises:
        BrokenGGUFError: the file has no tokenizer of this kind, it contradicts itself, or it changes texts.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    tokens, merges = vocabulary(file), pairs(file)
    kinds = _list(file, "token_type", int, default=[0] * len(tokens))
    if len(kinds) != len(tokens):
        raise _broken(file, f"{len(tokens):,} tokens have {len(kinds):,} types")
    try:
        numbers = {token: number for number, token in enumerate(tokens)}
        # Llama 3 takes a word that is a token as it is, whatever its merges say.
        whole = file.settings.get("tokenizer.ggml.pre") == "llama-bpe"
        tokenizer = Tokenizer(models.BPE(numbers, merges, ignore_merges=whole))
    except Exception as error:  # the library raises bare Exceptions
        raise _broken(file, f"its merges do not fit its tokens ({shown(error)})") from None
    tokenizer.pre_tokenizer = division(file)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, normalized=False, special=True)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == _CONTROL
        ]
    )
    end = file.settings.get("tokenizer.ggml.eos_token_id")
    if end is not None and (not isinstance(end, int) or not 0 <= end < len(tokens)):
        raise _broken(file, f"its token {shown(end)} that ends a text does not exist")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=None if end is None else tokens[end])
    check_unchanged(file, fast)
    return fast


def vocabulary(file: GGUFHeader) -> list[str]:
    """The tokens by their numbers.

    Raises:
        BrokenGGUFError: there are none, or two of a name, or more than the network has.
    """
    kind = file.settings.get("tokenizer.ggml.model")
    if kind != "gpt2":
        held = "no tokenizer" if kind is None else f"a tokenizer of the kind '{shown(kind)}'"
        raise BrokenGGUFError(
            f"'{file.path}' holds {held}, and only 'gpt2' (byte-level pairs) can be read from GGUF files: {_INSTEAD}"
        )
    tokens = _list(file, "tokens", str)
    if len(set(tokens)) != len(tokens):
        raise _broken(file, "two of its tokens have the same name")
    known = file.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in file.tensors else len(tokens)
    if not tokens or len(tokens) > known:
        raise _broken(file, f"its tokenizer has {len(tokens):,} tokens and its network {known:,}")
    return tokens


def pairs(file: GGUFHeader) -> list[tuple[str, str]]:
    """The merges, each of two tokens, in their order."""
    split = [tuple(merge.split(" ")) for merge in _list(file, "merges", str)]
    if wrong := next((pair for pair in split if len(pair) != 2), None):
        raise _broken(file, f"its merge '{shown(' '.join(wrong))}' is no pair of tokens")
    return split  # type: ignore[return-value]


def division(file: GGUFHeader) -> PreTokenizer:
    """The pre-tokenizer that a file names.

    Raises:
        BrokenGGUFError: it is not known here; another one would give other tokens.
    """
    from tokenizers import Regex, pre_tokenizers

    name = file.settings.get("tokenizer.ggml.pre")
    if not isinstance(name, str) or name not in _SPLITS:
        raise BrokenGGUFError(
            f"'{file.path}' divides text in the way '{shown(name)}', which is not known here (known: "
            f"{', '.join(_SPLITS)}): {_INSTEAD}"
        )
    split = _SPLITS[name]
    if split == "words":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    first = (
        pre_tokenizers.Digits(individual_digits=True)
        if split == "digits"
        else pre_tokenizers.Split(Regex(split), behavior="isolated")
    )
    return pre_tokenizers.Sequence(
        [first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split == "digits")]
    )


def check_unchanged(file: GGUFHeader, tokenizer: PreTrainedTokenizerBase) -> None:
    """Encode and decode a text.

    Raises:
        BrokenGGUFError: it comes back as another text.
    """
    ids = tokenizer(PROBE, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    again = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if again != PROBE:
        same = next((i for i, (a, b) in enumerate(zip(PROBE, again, strict=False)) if a != b), len(again))
        raise _broken(file, f"its tokenizer changes texts: '{shown(PROBE[same : same + 12])}' is lost")


def _list(file: GGUFHeader, name: str, kind: type, default: list[int] | list[str] | None = None) -> list[Any]:
    values = file.settings.get(f"tokenizer.ggml.{name}", default)
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise _broken(file, f"its setting 'tokenizer.ggml.{name}' is missing or no list")
    return values


def _broken(file: GGUFHeader, reason: str) -> BrokenGGUFError:
    return BrokenGGUFError(f"'{file.path}' is broken: {reason}; download it again")
