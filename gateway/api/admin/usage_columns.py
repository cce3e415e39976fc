"""By what a usage request groups: its columns, and the tag among them."""

from collections.abc import Sequence
from typing import Final

from gateway.api.admin.periods import check_days
from gateway.api.refusals import excerpt, listed, refused_value, wrong_value
from gateway.domain.attribution import TagFilter
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.usage import SPLITS, GroupBy, UsageFilter

_NO_TAGS: Final = "No tag has sums: [attribution] keys names none."
_DAYS_BY_HOUR_MAX: Final = 7


def parse_by(text: str | None) -> tuple[GroupBy, ...]:
    """Parses the columns, in order; the default is the day. Raises: GatewayError INVALID_VALUE."""
    known = {group.value: group for group in GroupBy}
    names = [name.strip() for name in (text or GroupBy.DAY.value).split(",")]
    for name in names:
        if name not in known:
            raise wrong_value("by", name, list(known))
    return tuple(dict.fromkeys(known[name] for name in names))


def check_hours(by: tuple[GroupBy, ...], selection: UsageFilter) -> None:
    """Raises: GatewayError INVALID_VALUE for too many days by hour."""
    if GroupBy.HOUR in by:
        check_days(selection.first, selection.last, _DAYS_BY_HOUR_MAX)


def parse_tag(text: str | None, tag_keys: Sequence[str], by: tuple[GroupBy, ...]) -> TagFilter | None:
    """Parses KEY or KEY=VALUE of a tag with sums. Raises: GatewayError INVALID_VALUE, MISSING_PARAMETER."""
    splits = [group.value for group in by if group in SPLITS and (group is not GroupBy.TAG or text is None)]
    if text is not None:
        splits.append(GroupBy.TAG.value)
    if splits[1:]:
        raise refused_value("by", f"usage by {listed(splits)} has separate sums. Ask for one of them at a time.")
    keys = f"Tags with sums: {', '.join(tag_keys)}." if tag_keys else _NO_TAGS
    if text is None:
        if GroupBy.TAG in by:
            raise GatewayError(
                ErrorCode.MISSING_PARAMETER,
                f"Missing required parameter: 'tag', the key of the tag to group by. {keys}",
                param="tag",
            )
        return None
    key, is_filter, value = text.partition("=")
    if key not in tag_keys:
        raise refused_value("tag", f"expected KEY or KEY=VALUE of a tag with sums, but got '{excerpt(key)}'. {keys}")
    if is_filter and not value:
        raise refused_value("tag", "the value is empty. Leave out '=' to group by all values.")
    return TagFilter(key, value if is_filter else None)
