"""The table of events that Shipyard shows, newest first."""

from __future__ import annotations

from sqlalchemy import delete, select

from hypercloud.db.models import EventRow
from hypercloud.db.session import Database
from hypercloud.event.bus import Bus, Record

LIMIT = 1000  # events that a list has at most


class Journal:
    """Keeps records and hands them to the bus.

    Args:
        database: where they are kept.
        bus: who is told.

    """

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
        self._bus = bus

    def add(self, record: Record) -> None:
        """Keep a record and tell the watchers."""
        with self._database.session() as session:
            session.add(
                EventRow(
                    type=record.type,
                    time=record.time,
                    engine=record.engine,
                    container=record.container,
                    image=record.image,
                    message=record.message,
                    tags=list(record.tags),
                )
            )
        self._bus.publish(record)

    def latest(self, limit: int = LIMIT) -> list[Record]:
        """Return the newest records, newest first."""
        with self._database.reading() as session:
            rows = session.scalars(select(EventRow).order_by(EventRow.id.desc()).limit(limit)).all()
        return [
            Record(
                type=row.type,
                time=row.time,
                engine=row.engine,
                container=row.container,
                image=row.image,
                message=row.message,
                tags=tuple(row.tags),
            )
            for row in rows
        ]

    def purge(self, before: float | None = None) -> None:
        """Remove all records, or those from before a time."""
        statement = delete(EventRow)
        if before is not None:
            statement = statement.where(EventRow.time < before)
        with self._database.session() as session:
            session.execute(statement)
