"""The clients by which Dify's API and worker reach their stores, each opened as Dify opens it, by the settings of a container.

For each line of the input it prints one: an object that says what each client met, "" for nothing. A line is an environment, by
which all are opened anew and used, or null, for which those that are open are used again."""

import json
import os
import ssl
import sys
import uuid
from urllib.parse import quote_plus

import celery
import psycopg2.pool
import redis
import sqlalchemy
from redis.connection import Connection, SSLConnection

VERIFY = {"CERT_NONE": ssl.CERT_NONE, "CERT_OPTIONAL": ssl.CERT_OPTIONAL, "CERT_REQUIRED": ssl.CERT_REQUIRED}


def encryption(env):
    """What Dify makes of its settings for Redis, for the cache's client and, beside the URL, for Celery's."""
    return {
        "ssl_cert_reqs": VERIFY.get(env.get("REDIS_SSL_CERT_REQS"), ssl.CERT_NONE),
        "ssl_ca_certs": env.get("REDIS_SSL_CA_CERTS"),
        "ssl_certfile": env.get("REDIS_SSL_CERTFILE"),
        "ssl_keyfile": env.get("REDIS_SSL_KEYFILE"),
    }


# Each client uses its connection once, and again whenever it is resumed.


def database(env):
    who = quote_plus(env["DB_USERNAME"]) + ":" + quote_plus(env["DB_PASSWORD"])
    engine = sqlalchemy.create_engine(
        "postgresql://%s@%s:%s/%s" % (who, env["DB_HOST"], env["DB_PORT"], env["DB_DATABASE"]),
        pool_pre_ping=env["SQLALCHEMY_POOL_PRE_PING"] == "true",
        connect_args={"options": "-c timezone=UTC"},
    )
    try:
        with engine.connect() as connection:
            while True:
                connection.execute(sqlalchemy.text("SELECT 1"))
                yield
    finally:
        engine.dispose()


def vectors(env):
    pool = psycopg2.pool.SimpleConnectionPool(
        1,
        5,
        host=env["PGVECTOR_HOST"],
        port=env["PGVECTOR_PORT"],
        user=env["PGVECTOR_USER"],
        password=env["PGVECTOR_PASSWORD"],
        database=env["PGVECTOR_DATABASE"],
    )
    try:
        cursor = pool.getconn().cursor()
        while True:
            cursor.execute("SELECT 1")
            yield
    finally:
        pool.closeall()


def cache(env):
    options = encryption(env) if env["REDIS_USE_SSL"] == "true" else {}
    pool = redis.ConnectionPool(
        host=env["REDIS_HOST"],
        port=int(env["REDIS_PORT"]),
        username=env["REDIS_USERNAME"],
        password=env["REDIS_PASSWORD"],
        db=int(env["REDIS_DB"]),
        encoding="utf-8",
        encoding_errors="strict",
        decode_responses=False,
        protocol=3,
        connection_class=SSLConnection if options else Connection,
        **options,
    )
    client = redis.Redis(connection_pool=pool)
    try:
        first = client.client_id()
        while True:
            assert client.client_id() == first, "it was connected anew"
            yield
    finally:
        pool.disconnect()


def application(env):
    url = env["CELERY_BROKER_URL"]
    app = celery.Celery("app", broker=url, backend="redis", set_as_current=False)
    app.conf.update(result_backend=url, task_ignore_result=True)
    if url.startswith("rediss://"):
        app.conf.update(broker_use_ssl=encryption(env), redis_backend_use_ssl=encryption(env))
    return app


def queue(env):
    app, name = application(env), str(uuid.uuid4())
    with app.connection_for_write() as out, app.connection_for_read() as into:
        out.connect()  # once: by itself it would try for longer
        into.connect()
        with into.SimpleQueue(name) as tasks:
            while True:
                app.send_task("task", args=[1], queue=name, connection=out, retry=False)
                message = tasks.get(timeout=60)
                assert message.headers["task"] == "task", message.headers
                message.ack()
                yield


def results(env):
    client = application(env).backend.client
    try:
        first = client.client_id()
        while True:
            assert client.client_id() == first, "it was connected anew"
            yield
    finally:
        client.close()


def events(env):
    client = redis.Redis.from_url(env["EVENT_BUS_REDIS_URL"])
    listener = client.pubsub(ignore_subscribe_messages=True)
    channel = str(uuid.uuid4())
    try:
        listener.subscribe(channel)
        while True:
            client.publish(channel, b"event")
            message = None
            while message is None:
                message = listener.get_message(timeout=60)
            assert message["data"] == b"event", message
            yield
    finally:
        listener.close()
        client.close()


def use(client):
    try:
        next(client)
        return ""
    except Exception as e:
        said = []
        while e is not None:
            said.append("%s: %s" % (type(e).__name__, e))
            e = e.__cause__ or e.__context__
        return " < ".join(said)


outside, clients = dict(os.environ), {}
for line in sys.stdin:
    env = json.loads(line)
    if env is not None:
        for client in clients.values():
            client.close()
        os.environ.clear()  # libpq reads some settings itself
        os.environ.update(outside, **env)
        clients = {open.__name__: open(env) for open in (database, vectors, cache, queue, results, events)}
    print(json.dumps({name: use(client) for name, client in clients.items()}), flush=True)
