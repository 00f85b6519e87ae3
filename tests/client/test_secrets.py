"""What looks like a secret and what does not."""

import pytest

from tidemill.client.secrets import masked_command, secret_content, secret_name, secret_path


@pytest.mark.parametrize(
    "path",
    [".env", "deploy/.env.local", "server.pem", "a/b.key", "id_rsa", "id_ed25519", ".netrc", "credentials.json", "secrets.toml",
     "gcp-service-account.json", ".aws/config", ".ssh/known_hosts", "my_passwords.txt", "TOKEN"],
)  # fmt: skip
def test_files_that_people_keep_secrets_in(path: str) -> None:
    assert secret_path(path)


@pytest.mark.parametrize("path", ["train.py", "tokenizer.json", "keyboard.txt", "data/environment.yml", "monkey.csv", "notes.md"])
def test_files_that_they_do_not(path: str) -> None:
    assert not secret_path(path)


@pytest.mark.parametrize(
    "data",
    [b"-----BEGIN OPENSSH PRIVATE KEY-----", b"key AKIAABCDEFGHIJKLMNOP", b"ghp_" + b"a1" * 18, b"xoxb-1234567890-abc",
     b'DB_PASSWORD = "correcthorse"', b"{'api_key': 'abcdefgh12345'}", b"tm_ab12_" + b"x" * 24, b"eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.x"],
)  # fmt: skip
def test_bytes_that_hold_one(data: bytes) -> None:
    assert secret_content(b"before " + data + b" after")


@pytest.mark.parametrize("data", [b"password = os.environ['PASSWORD']", b"token = tokenizer(text)", b"x" * 1000, b"secret = None", b""])
def test_bytes_that_hold_none(data: bytes) -> None:
    assert not secret_content(data)


def test_names_of_secrets() -> None:
    assert all(map(secret_name, ["--api-key", "PASSWORD", "db_passwd", "authToken", "client-secret", "access_key"]))
    assert not any(map(secret_name, ["--depth", "path", "key", "seed"]))


def test_a_command_line_shows_no_secret() -> None:
    said = ["train.py", "--depth", "3", "--token", "abc", "--api-key=abc", "--url", "redis://me:word@host", "--verbose", "--password",
            "--fast", "x=https://h/?token=abc", "AKIAABCDEFGHIJKLMNOP"]  # fmt: skip
    assert masked_command(said) == [
        "train.py", "--depth", "3", "--token", "***", "--api-key=***", "--url", "redis://me:***@host", "--verbose", "--password",
        "--fast", "x=https://h/?token=***", "***",
    ]  # fmt: skip
