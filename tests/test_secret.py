"""Secrets are masked, ordinary words are not, and a long text takes no longer than it must."""

from __future__ import annotations

import time

import pytest

from seqbench.config import Job
from seqbench.schema import describe
from seqbench.secret import mask, mask_word

S = "Zq7Zq7Zq7Zq7Zq7Zq7Zq7"  # stands for every secret below
SECRETS = [
    f"api_key={S}", f"API_KEY: {S}", f"apikey={S}", f"api-key={S}", f"accessKey={S}", f"secretKey={S}",
    f"AWS_SECRET_ACCESS_KEY={S}", f"aws_access_key_id={S}", f"password={S}", f"passwd={S}", f"PGPASSWORD={S}",
    f"MYSQL_PWD={S}", f"DB_PASS={S}", f"client_secret: {S}", f"hf_token={S}", f"TOKEN2={S}", f"token={S}",
    f"ssh_passphrase={S}", f"credentials={S}", f"github_pat={S}", f"X-Api-Key: {S}", f"session_key={S}",
    f"Authorization: Bearer {S}", f"authorization: Basic {S}", f"bearer {S}", f"https://u:{S}@host/x",
    f"postgres://u:{S}@h:5/db", f"redis://:{S}@h", f"https://{S}@host", f"postgres://u:{S}@{S}@h/db",
    f"{{'api_key': '{S}'}}", f'{{"password": "{S}", "x": 1}}', f"password='{S} {S}'", f'password="a {S}"',
    f'password="a\\"{S}"', f"password={S};{S}", f"password={S},{S}", f"password=[{S},{S}]", f"--password {S}",
    f"--api-key {S}", f"--token={S}", f"https://h/x?token={S}&a=1", f"https://h/?X-Amz-Signature={S}",
    f"hf_{S}", f"ghp_{S}", f"sk-{S}", f"github_pat_{S}", "AKIAZQ7ZQ7ZQ7ZQ7ZQ7Z", f"eyJhbGciOiJI.{S}.{S}",
    f"-----BEGIN OPENSSH PRIVATE KEY-----\n{S}\n{S}\n-----END OPENSSH PRIVATE KEY-----",
    f"-----BEGIN RSA PRIVATE KEY-----\n{S}", "password=12345678", "db_password: 1",
]  # fmt: skip
ORDINARY = [
    "max_tokens=256", "tokens_per_s=1234", "first_token=7", "task.keys=16", "keys=3", "author=me",
    "attention=local", "expected key=value", "task.pairs=20: needs as many keys; raise task.keys (now 16)",
    "tokenizer=word", "valid_tokens: 12", "key: value", "key=5", "monkey=3", "KeyError: 'x'", "hot_key: 3",
    "authority=dataclass", "author: Jane", "passive=1", "compass=2", "bypass=3", "passes=3", "secretary=Ann",
    "pad_token=0", "eos_token: 2", "seconds_per_token=0.1", "loss_per_token: 2.3e-05", "query_key=-4",
    "auth=none", "use_token=true", "bag of tokens 0.667", "Basic settings", "basic 1234567", "bearer of news",
    "http://host/x@y", "file:///a/b@c", "path=/a@b", "user@example.com", "git@github.com:a/b", "spat=4",
    "model.heads=2 task.key_width=8", "signatures: 3", "the key", "password", "--token", "token", "a=b=c",
    "https://host:80/x", "runs/temporal-order-lstm-0123456789/log.txt", "sk-learn", "hf_hub",
    "/etc/passwd: no such file",
]  # fmt: skip


@pytest.mark.parametrize("text", SECRETS)
@pytest.mark.parametrize("how", [mask, mask_word])
def test_a_secret_is_masked(text, how):
    assert "zq7" not in how(text).lower()
    assert "***" in how(text)
    assert "zq7" not in how(f"words before {text} after").lower()


@pytest.mark.parametrize("text", ORDINARY)
@pytest.mark.parametrize("how", [mask, mask_word])
def test_ordinary_words_stay(text, how):
    assert how(text) == text


def test_settings_of_seqbench_stay():
    rows = [f"{name}={default}" for name, default, _ in describe(Job)]
    assert [mask_word(row) for row in rows] == rows


def test_json_stays_json():
    assert mask(f'{{"token": "{S}", "lr": 1}}') == '{"token": "***", "lr": 1}'


def test_values_of_telling_variables_are_masked_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("MY_PASSWORD", "correct horse\nbattery staple")
    monkeypatch.setenv("DATABASE_URL", "postgres://me:pa/ss-word@h/db")
    monkeypatch.setenv("OTHER_URL", "postgres://me:only-here@h/db")
    monkeypatch.setenv("HF_TOKEN", "abcdefgh")
    monkeypatch.setenv("HF_TOKEN_LONG_SECRET", "abcdefgh-and-more")
    monkeypatch.setenv("SHORT_TOKEN", "ab")
    monkeypatch.setenv("ORDINARY", "lstm-and-gru")
    assert mask("it said: correct horse\nbattery staple!") == "it said: ***!"
    assert mask("battery staple, correct horse") == "***, ***"
    assert mask("only-here") == "***"
    assert mask("abcdefgh-and-more abcdefgh") == "*** ***"
    assert mask("ab lstm-and-gru") == "ab lstm-and-gru"


@pytest.mark.parametrize(
    "piece",
    ["a.", "token ", "a", "://", "http://a:", "token=", "-", "password='", "--a-", "bearer ", "_pass", "eyJ",
     "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "a:b@", "authorization:"],
)  # fmt: skip
def test_a_long_text_is_masked_in_linear_time(piece):
    start = time.process_time()
    mask(piece * (300_000 // len(piece)))
    assert time.process_time() - start < 2
