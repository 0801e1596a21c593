from __future__ import annotations

import hashlib

import pytest

from vecserver.control.access.scopes import Scope
from vecserver.control.access.tokens import Token, Tokens, check_token, digest_of, new_token, read_token, read_tokens

DIGEST = "0" * 64


def test_a_token_has_256_bits():
    """And no two are alike."""
    made = {new_token() for _ in range(100)}
    assert (len(made), {len(token) for token in made}) == (100, {43})


def test_what_is_kept_is_a_hash():
    """Neither the tokens nor their text are to be had from what a server keeps."""
    token = new_token()
    tokens = Tokens([Token("a", digest_of(token), Scope.USE)])
    assert digest_of(token) == hashlib.sha256(token.encode()).hexdigest()
    assert token not in repr(vars(tokens))
    assert (tokens.scope_of(token), tokens.scope_of(token + "x"), tokens.scope_of("")) == (Scope.USE, None, None)


@pytest.mark.parametrize("token", ["", "short", "with a blank in it, and long", "line\nend" * 10, "ü" * 30])
def test_a_token_that_is_none_is_refused_without_repeating_it(token):
    """Short ones can be guessed; the rest cannot be sent."""
    with pytest.raises(ValueError, match=r"^a token has") as refused:
        check_token(token)
    assert not token or token not in str(refused.value)


def test_a_file_has_one_token(tmp_path):
    """With blanks around it or without."""
    token = new_token()
    (tmp_path / "token").write_text(f"{token}\n")
    assert read_token(tmp_path / "token") == token
    with pytest.raises(ValueError, match="cannot be read"):
        read_token(tmp_path / "none")


def test_a_file_has_many_hashed_tokens(tmp_path):
    """By name, each with its scope."""
    path = tmp_path / "tokens.toml"
    path.write_text(f'[tokens.prometheus]\nsha256 = "{DIGEST}"\nscope = "read"\n')
    assert read_tokens(path) == [Token("prometheus", DIGEST, Scope.READ)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "no TOML"),
        ("", "tables named"),
        ("[tokens.a]\n[other]", "tables named"),
        ("[tokens]\na = 1", "'a' has scope and sha256"),
        ('[tokens.a]\nsha256 = "x"\nscope = "read"', "no hash"),
        (f'[tokens.a]\nsha256 = "{DIGEST}"\nscope = "root"', "read, use, create, admin"),
        (f'[tokens.a]\nsha256 = "{DIGEST}"\nscope = "READ"', "no scope"),
        (f'[tokens.a]\nsha256 = "{DIGEST}"\nscope = "read"\nextra = 1', "'a' has scope and sha256"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path, text, words):
    """With its path, and the token's name."""
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_tokens(path)
