"""The live policy document and the admin API."""

from __future__ import annotations

from pydantic import Field, StrictBool

from router.config.base import Table


class AdminConfig(Table):
    """Changing the policy while the gateway serves. `/admin` exists where `auth.admin_key_env` or
    `auth.keys_file` is set."""

    dir: str = Field(
        "admin",
        min_length=1,
        description="Folder of the policy versions that were in force here, and of the audit log; made when needed.",
    )
    watch_file: StrictBool = Field(
        True,
        description="Whether an edit of what the policy document holds is installed as the file is saved; "
        "SIGHUP does that in any case.",
    )
    show_texts: StrictBool = Field(
        False,
        description="Whether an admin key may read the texts of requests that were captured in full, in the console "
        "and in `GET /admin/decisions`; each such look leaves a line in the audit log.",
    )
