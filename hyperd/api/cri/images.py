"""Images: pulled with credentials, listed, removed, and what they take of the disk."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

from hyperd.api.cri.call import Call, Method
from hyperd.api.cri.v1 import api_pb2 as pb
from hyperd.errors import InvalidInput, NotFound
from hyperd.image.model import Image
from hyperd.registry.auth import AuthConfig
from hyperd.registry.reference import Reference

_BLOCK = 512  # bytes, of st_blocks


def listed(call: Call, request: pb.ListImagesRequest) -> pb.ListImagesResponse:
    """List images, or the one that the filter names."""
    name = request.filter.image.image
    if name:
        found = _find(call, name)
        return pb.ListImagesResponse(images=[_view(call, found)] if found else [])
    return pb.ListImagesResponse(images=[_view(call, one) for one in call.engine.images.list()])


def status(call: Call, request: pb.ImageStatusRequest) -> pb.ImageStatusResponse:
    """Describe an image; there is none in the answer when it is not here. Errors: InvalidInput."""
    found = _find(call, _name(request.image))
    if found is None:
        return pb.ImageStatusResponse()
    info = {"config": json.dumps(found.config)} if request.verbose else {}
    return pb.ImageStatusResponse(image=_view(call, found), info=info)


def pull(call: Call, request: pb.PullImageRequest) -> pb.PullImageResponse:
    """Pull an image. Errors: as the service's."""
    given = request.auth
    auth = AuthConfig.from_mapping(
        {
            "username": given.username,
            "password": given.password,
            "auth": given.auth,
            "serveraddress": given.server_address,
            "identitytoken": given.identity_token,
            "registrytoken": given.registry_token,
        }
    )
    image = call.engine.images.pull(
        _name(request.image), auth=auth, progress=lambda _event: None, cancelled=lambda: not call.active()
    )
    return pb.PullImageResponse(image_ref=image.id)


def remove(call: Call, request: pb.RemoveImageRequest) -> pb.RemoveImageResponse:
    """Remove an image with all its names; an unknown one is no error. Errors: Conflict."""
    found = _find(call, _name(request.image))
    if found is not None:
        with contextlib.suppress(NotFound):
            call.engine.images.remove(found.id, force=True)
    return pb.RemoveImageResponse()


def fs_info(call: Call, _request: pb.ImageFsInfoRequest) -> pb.ImageFsInfoResponse:
    """Tell what images and containers take of the host's disk."""
    root = call.engine.config.root
    return pb.ImageFsInfoResponse(
        image_filesystems=[_usage(root / "images")], container_filesystems=[_usage(root / "pods")]
    )


def _usage(directory: Path) -> pb.FilesystemUsage:
    used = inodes = 0
    for place, names, files in os.walk(directory):
        for name in (*names, *files):
            with contextlib.suppress(OSError):  # it has just been removed
                used += Path(place, name).lstat().st_blocks * _BLOCK
                inodes += 1
    return pb.FilesystemUsage(
        timestamp=time.time_ns(),
        fs_id=pb.FilesystemIdentifier(mountpoint=str(directory)),
        used_bytes=pb.UInt64Value(value=used),
        inodes_used=pb.UInt64Value(value=inodes),
    )


def _name(image: pb.ImageSpec) -> str:
    if not image.image:
        raise InvalidInput("no image was named")
    return image.image


def _find(call: Call, name: str) -> Image | None:
    try:
        return call.engine.images.get(name)
    except NotFound:
        return None


def _view(call: Call, image: Image) -> pb.Image:
    domain = call.engine.config.registry.default
    user = image.defaults.user.partition(":")[0]
    found = pb.Image(
        id=image.id,
        repo_tags=[Reference.parse(name, default_domain=domain).canonical for name in image.tags],
        repo_digests=[Reference.parse(name, default_domain=domain).canonical for name in image.digests],
        size=max(1, image.size),
        username="" if user.isdigit() else user,
    )
    if not user or user.isdigit():
        found.uid.value = int(user or 0)
    return found


METHODS: dict[str, Method] = {
    "ListImages": listed,
    "ImageStatus": status,
    "PullImage": pull,
    "RemoveImage": remove,
    "ImageFsInfo": fs_info,
}
