"""hypercloud's migrations make exactly the tables of the models; a newer database is refused."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from hypercloud.db import models
from hypercloud.db.migrate import migrate
from hypercloud.db.session import Base, Database
from hypercloud.errors import HostFault


@pytest.fixture
def database(tmp_path):
    made = Database(f"sqlite:///{tmp_path / 'c.db'}")
    yield made
    made.close()


def test_migrations_make_the_models(database):
    migrate(database)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    assert models.ServiceRow.__tablename__ == "services"
    migrate(database)


def test_a_newer_database_is_refused(database):
    migrate(database)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(HostFault, match="newer"):
        migrate(database)
