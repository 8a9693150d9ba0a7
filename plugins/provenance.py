"""provenance: marks the video as made by AI, with plain tags and signed content credentials (C2PA).

It comes last, because whatever changed the video afterwards would break the signature.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from atenea import Context, Job, PluginOptions, durable, hookimpl
from atenea.errors import AteneaError
from atenea.finding import Finding, finding_of
from atenea.places import SERVICE_FILE

if TYPE_CHECKING:
    from atenea.media.signer import Signer

needs = {"cpu"}

PUBLIC = {"tts": ("model", "voice"), "render": ()}
"""The options of other plugins that the video tells."""

_FOLDER = "$CREDENTIALS_DIRECTORY"
"""In the configuration, the real folder takes its place where systemd names one."""


def _absolute(path: Path) -> Path:
    path = path.expanduser()
    if not path.is_absolute() and path.parts[:1] != (_FOLDER,):
        raise ValueError(f"should be an absolute path, but is {str(path)!r}")
    return path


def _web_address(url: str) -> str:
    address = urlsplit(url)
    if address.username or address.password:
        raise ValueError("should be an address without a password, which could be read in the log")
    if address.scheme not in {"http", "https"} or not address.hostname:
        raise ValueError(f"should be an address that begins with http:// or https://, but is {url!r}")
    return url


File = Annotated[Path, AfterValidator(_absolute)]


class Options(PluginOptions):
    """Options of the plugin.

    Attributes:
        enabled: mark videos whose `post.plugins` do not list this plugin too.
        certificate: PEM; the signer's own, then those that lead to its root. Without it, a test one is made.
        private_key: PEM; of the certificate, and readable by nobody else.
        timestamp_url: of a time stamp authority, asked for each video, which is the only use of the network.
    """

    configuration_only: ClassVar = frozenset({"enabled", "certificate", "private_key", "timestamp_url"})

    enabled: bool = True
    certificate: File | None = None
    private_key: File | None = Field(None, exclude=True)
    timestamp_url: Annotated[str, AfterValidator(_web_address)] | None = None

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key belong together; set both, or none for a test certificate")
        return self


@hookimpl
def check(ctx: Context) -> str | None:
    """See whether videos can be signed, before anything slow is done."""
    return _wrong(ctx, look=_options(ctx).certificate is not None)


@hookimpl
def diagnose(ctx: Context) -> list[Finding]:
    """In whose name videos are signed."""
    own, unseen = _options(ctx).certificate, _credentials(_options(ctx))
    if wrong := _wrong(ctx, look=own is not None and not unseen):
        return [finding_of("certificate", "problem", wrong, "mend what [post.provenance] names")]
    if unseen:
        text = f"{_FOLDER}/{unseen[0]} is there only where systemd hands it over, so it was not looked at"
        return [Finding("certificate", "note", text, _as_the_service(unseen))]
    if own is None:
        cure = "for your own name, set certificate and private_key under [post.provenance]: docs/provenance.md"
        return [Finding("certificate", "note", "videos are signed with a test certificate that nobody trusts", cure)]
    return [Finding("certificate", "ok", f"videos are signed by {_signer(ctx).name!r}")]


@hookimpl
def post(job: Job, video: Path, ctx: Context) -> Path:
    """Tag the video, then sign it."""
    from atenea.media.provenance import check_installed, sign, tag  # noqa: PLC0415

    check_installed()
    signer = _signer(ctx)
    tagged, signed, target = (ctx.workdir / name for name in ("tagged.mp4", "signed.mp4", "provenance.mp4"))
    tag(video, tagged, progress=lambda fraction: ctx.progress(fraction / 2, "tagging"))
    ctx.progress(0.5, "signing")
    sign(
        tagged,
        signed,
        signer,
        title=job.name,
        made_with=_made_with(ctx),
        timestamp_url=_options(ctx).timestamp_url,
    )
    tagged.unlink()
    durable.fsync_file(signed)
    durable.replace(signed, target)
    ctx.report["signed_by"] = signer.name
    return target


def _wrong(ctx: Context, *, look: bool) -> str | None:
    """Why no video can be signed; `look` at the certificate and its key too."""
    from atenea.media.provenance import check_installed  # noqa: PLC0415 - listing the plugins must not cost it

    try:
        check_installed()
        if look:
            _signer(ctx)
    except AteneaError as error:
        return str(error)
    return None


def _credentials(options: Options) -> list[str]:
    """The names of files that are systemd's credentials, where it has not handed them over: then their paths stay."""
    named = (options.certificate, options.private_key)
    return list(dict.fromkeys(str(path.relative_to(_FOLDER)) for path in named if path and path.parts[0] == _FOLDER))


def _as_the_service(credentials: list[str]) -> str:
    """How `atenea doctor` is given credentials that lie where the service's own do (docs/setup.md)."""
    given = [f"--property=LoadCredential={name}:{SERVICE_FILE.parent / name}" for name in credentials]
    doctor = [sys.executable, "-m", "atenea", "doctor", "--config", str(SERVICE_FILE)]
    return shlex.join(["sudo", "systemd-run", "--quiet", "--pipe", "--wait", "--property=User=atenea", *given, *doctor])


def _signer(ctx: Context) -> Signer:
    from atenea.media.signer import load_signer, untrusted_signer  # noqa: PLC0415

    options = _options(ctx)
    if options.certificate is None or options.private_key is None:
        return untrusted_signer(ctx.cache)
    return load_signer(options.certificate, options.private_key)


def _options(ctx: Context) -> Options:
    assert isinstance(ctx.options, Options)  # noqa: S101 - the plugin manager validated them
    return ctx.options


def _made_with(ctx: Context) -> dict[str, Any]:
    """The plugins that made speech and picture, and those of their options that are for everybody."""
    return {
        done["stage"]: {
            "plugin": done["plugin"],
            **{
                name: value
                for name, value in done["options"].items()
                if name in PUBLIC[done["stage"]] and _public(value)
            },
        }
        for done in ctx.stages
        if done["stage"] in PUBLIC
    }


def _public(value: Any) -> bool:
    """Whether it is a name; a path tells about the machine."""
    return isinstance(value, str) and bool(value) and not value.startswith(("/", "~", "."))
