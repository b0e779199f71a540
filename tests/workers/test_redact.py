"""What is hidden of URLs and texts, and that nothing else is."""

import pytest

from workers.redact import is_path, redact_text, redact_url, show_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://admin:pw@10.0.0.7:554/live/1", "rtsp://10.0.0.7:554/live/1"),
        ("rtsp://admin@cam/live", "rtsp://cam/live"),
        ("rtsp://u:p/w@host/live", "rtsp://host/live"),
        ("rtsp://u:p?w#@host/live", "rtsp://host/live"),
        ("rtsp://us%40er:p@ss:word@cam:554/live", "rtsp://cam:554/live"),
        ("redis://:pw@h:6379/0", "redis://h:6379/0"),
        ("redis://:pw/45@h", "redis://h"),
        ("redis://u:12#45@h", "redis://h"),
        ("redis://:a b@h/0", "redis://h/0"),
        ("http://u:p@[::1/x", "http://[::1/x"),
        ("unix://user:pw@/run/redis.sock", "unix:///run/redis.sock"),
        ("redis://user:hunter2", "redis://user:***"),
        ("redis://u:pw@a:7000,b:7001/0", "redis://a:7000,b:7001/0"),
        ("redis://a:7000,b:hunter2", "redis://a:***"),
        ("redis://a,b:hunter2", "redis://a,b:***"),
        ("redis:/:pw@h", "redis:/***@h"),
        ("redis//:pw@h", "redis//***@h"),
        ("redis:pw@h", "redis:***@h"),
        (":pw@h:6379", "***@h:6379"),
        ("user:pw@h", "***@h"),
        ("//user:pw@h/x", "//***@h/x"),
    ],
)
def test_what_stands_before_the_last_at_is_hidden(url, shown):
    assert redact_url(url) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("unix:///run/s.sock?password=pw&db=1", "unix:///run/s.sock?password=***&db=1"),
        ("http://h/a.m3u8?channel=1&Access_Token=x#t", "http://h/a.m3u8?channel=1&Access_Token=***#***"),
        ("https://cam/x?token=abc&user=me", "https://cam/x?token=***&user=***"),
        ("https://cam/x?hunter2", "https://cam/x?***"),
        ("rtsp://cam/live;key=1", "rtsp://cam/live;key=***"),
        ("rtsp://cam/live#token=1", "rtsp://cam/live#token=***"),
        ("rtsp://c:554/user=me&password=pw&channel=1", "rtsp://c:554/user=***&password=***&channel=1"),
        ("rtsp://cam/a?password=x/y?z", "rtsp://cam/a?password=***?***"),
    ],
)  # fmt: skip
def test_values_of_parameters_are_hidden_unless_they_are_harmless(url, shown):
    assert redact_url(url) == shown


@pytest.mark.parametrize(
    "text",
    [
        "/videos/a@b.mp4",
        "/videos/what?.mp4",
        "/videos/\u00e9t\u00e9 #1.mp4",
        "lecture.mp4",
        "folder/a=b.mp4",
        "12:30.mp4",
        "file:///a/b.mp4",
        "embedded://~/.local/share/aot-stream",
        "http://[::1]:80/x",
        "rediss://h.example.org:6380/2",
        "stream://lobby?start=1",
        "auto",
        "10.0.0.1:6379",
    ],
)
def test_paths_and_plain_urls_stay(text):
    assert redact_url(text) == text
    assert redact_text(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("from 'redis://u:pw@h:1/0'; go", "from 'redis://h:1/0'; go"),
        ("at http://h/x?token=abc, less", "at http://h/x?token=***, less"),
        ("blanks in redis://:a b@h: refused", "blanks in redis://h: refused"),
        ("u:pw@h is no address", "***@h is no address"),
        ("walk is written by 8f@host:7", "walk is written by 8f@host:7"),
        ("expected redis://host:port/db", "expected redis://host:port/db"),
    ],
)  # fmt: skip
def test_of_a_text_only_credentials_are_hidden(text, shown):
    assert redact_text(text) == shown


def test_what_is_shown_has_no_control_characters_and_an_end():
    assert show_url("a\x1b[31m\n.mp4") == "a\\x1b[31m\\n.mp4"
    assert len(show_url("/" + "x" * 5000)) < 300


def test_a_path_begins_with_one_slash():
    assert is_path("/a")
    assert not is_path("//a")
