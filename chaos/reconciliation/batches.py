"""Batches: every line ends once, and its images, its records and the usage by batch agree."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from chaos.ledger_records import Line, Sums
from chaos.observations import Batch, Discrepancy, Observations


def check_batches(observed: Observations) -> list[Discrepancy]:
    """Purchases, charges and answers of lines are checked as those of requests: each has its ID in its prompt."""
    lines = defaultdict[str, list[Line]](list)
    for line in observed.lines:
        if line.batch_id:
            lines[line.batch_id].append(line)
    found = [one for batch in observed.batches for one in _check(batch, lines[batch.id])]
    for batch_id in sorted({*lines, *observed.batch_sums} - {""}):
        recorded, reported = _sum(lines[batch_id]), observed.batch_sums.get(batch_id, Sums())
        if recorded != reported:
            found.append(
                Discrepancy("usage by batch is not its records", f"{batch_id}: records {recorded}, usage {reported}")
            )
    return found


def _check(batch: Batch, records: Sequence[Line]) -> Iterator[Discrepancy]:
    for fault in batch.faults:
        yield Discrepancy("a batch has a fault", f"{batch.id or batch.name}: {fault}")
    if batch.status not in ({"completed", "cancelled"} if batch.is_cancelled else {"completed"}):
        yield Discrepancy("a batch did not end well", f"{batch.id or batch.name}: {batch.status or 'not created'}")
        return
    ended = Counter([*batch.output, *batch.errors])
    wrong = sorted(name for name in {*batch.custom_ids, *ended} if name not in batch.custom_ids or ended[name] != 1)
    if wrong:
        detail = f"{batch.id}: {len(wrong)} of {len(batch.custom_ids)} lines not once in its files"
        yield Discrepancy("a line of a batch did not end once", detail, tuple(wrong))
    counts = (len(batch.custom_ids), len(batch.output), len(batch.errors))
    if batch.counts != counts:
        yield Discrepancy("a batch's counts are not its files", f"{batch.id}: {batch.counts}, files {counts}")
    strangers = tuple(sorted({line.request_id for line in records} - {*batch.custom_ids}))
    if strangers:
        yield Discrepancy("a record of another batch's line", batch.id, strangers)


def _sum(lines: Sequence[Line]) -> Sums:
    sums = Sums()
    for line in lines:
        sums.add(line)
    return sums
