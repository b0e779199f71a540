"""Cameras of this machine: which URL means which device, what may be opened, what is said.

No machine of the tests has a camera: what is not seen here is a picture from one. A node of a video
device behind which there is none is made where that is allowed, and opened for real.
"""

import os
import stat

import av
import pytest

from workers.decode.device import device_groups, read_device_options
from workers.decode.network import DEVICE_FORMAT, NetworkOptions, open_network_track
from workers.decode.policy import SourcePolicy, check_url, is_network_url
from workers.errors import SourceError, SourceRefused, SourceUnreachable
from workers.live.child import Request
from workers.live.process import DecoderProcess
from workers.redact import show_url


def check(url, *devices):
    return check_url(url, SourcePolicy(devices=devices), shown=show_url(url))


@pytest.fixture
def node(tmp_path):
    """A video device's node without a device."""
    path = tmp_path / "video99"
    try:
        os.mknod(path, stat.S_IFCHR | 0o660, os.makedev(81, 250))
        os.chown(path, 0, 44)
        path.chmod(0o660)
    except PermissionError:
        pytest.skip("making a device node needs root and CAP_MKNOD")
    for folder in (tmp_path, *tmp_path.parents):
        if not os.stat(folder).st_mode & stat.S_IXOTH:
            os.chmod(folder, 0o711)
    return path


def test_what_a_url_asks_for_is_what_ffmpeg_is_told():
    url = "v4l2:///dev/video0?size=1280x720&fps=29.97&format=yuyv422"

    assert read_device_options(url, shown="x") == {
        "video_size": "1280x720",
        "framerate": "29.97",
        "input_format": "yuyv422",
    }
    assert is_network_url(url)  # does not end, and is no file
    assert show_url(url) == url


@pytest.mark.parametrize(
    "query", ["size=big", "fps=30;rm", "format=../x", "size=", "standard=pal", "video_size=1x1"]
)
def test_other_options_are_refused(query, node):
    with pytest.raises(SourceRefused, match="got "):
        check(f"v4l2://{node}?{query}", str(node))


@pytest.mark.parametrize(
    "url", ["v4l2://video0", "v4l2:video0", "v4l2://host/dev/video0", "v4l2://"]
)
def test_a_url_without_a_device_is_refused(url):
    with pytest.raises(SourceRefused, match="write v4l2:///dev/video0"):
        check(url, "/dev/video0")


def test_a_device_is_opened_only_where_it_is_named(node):
    with pytest.raises(SourceRefused, match="--allow-device /"):
        check(f"v4l2://{node}", "/dev/video0")

    assert check(f"v4l2://{node}", str(node)).address == str(node)


def test_a_link_means_what_it_leads_to(node, tmp_path):
    link = tmp_path / "by-id"
    link.symlink_to(node)

    assert check(f"v4l2://{link}", str(node)).address == str(node)
    assert check(f"v4l2://{node}", str(link)).address == str(node)


@pytest.mark.parametrize("path", ["/dev/null", "/etc/passwd", "/dev"])
def test_what_is_no_video_device_is_refused_though_it_is_named(path):
    with pytest.raises(SourceRefused, match="is no video device"):
        check(f"v4l2://{path}", path)


def test_a_device_that_is_not_there_is_told():
    with pytest.raises(SourceUnreachable, match=r"No such file.*plugged in"):
        check("v4l2:///dev/video77", "/dev/video77")


def test_a_playlist_cannot_name_a_device(node):
    policy = SourcePolicy(networks=("127.0.0.0/8",))

    with pytest.raises(SourceRefused):
        check_url(f"v4l2://{node}", policy, shown="x")


def test_a_decoder_without_devices_is_told(node, monkeypatch):
    monkeypatch.setattr(av, "formats_available", {"mpegts"})
    policy = SourcePolicy(devices=(str(node),))

    with (
        pytest.raises(SourceUnreachable, match="without libavdevice"),
        open_network_track(f"v4l2://{node}", policy, NetworkOptions(), shown="x"),
    ):
        pass


def test_the_demuxer_is_there_and_says_what_is_wrong_with_a_device(node):
    assert DEVICE_FORMAT in av.formats_available
    url = f"v4l2://{node}?size=640x480&format=mjpeg"
    request = Request(url=url, shown=show_url(url), fps=1.0, devices=(str(node),))

    with (
        pytest.raises(SourceUnreachable, match=r"No such device.*is it a camera") as caught,
        DecoderProcess(request) as decoder,
    ):
        list(decoder)
    assert isinstance(caught.value, SourceError)


def test_the_group_of_a_device_is_kept_where_it_may_read_it(node):
    assert device_groups(f"v4l2://{node}") == [44]
    node.chmod(0o640)  # it is opened for reading and writing
    assert device_groups(f"v4l2://{node}") == []
    assert device_groups("v4l2:///dev/video77") == []
