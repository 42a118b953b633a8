"""What Shipyard's routes read and answer, as a table for the OpenAPI document."""

from __future__ import annotations

from hypercloud.api.describe import (
    COUNT,
    FLAG,
    NUMBER,
    PLAIN,
    TEXT,
    TEXTS,
    Dialect,
    Operation,
    Schema,
    many,
    q,
    ref,
    said,
    thing,
)
from hypercloud.api.shipyard.people import (
    AccountSchema,
    CredentialsSchema,
    PasswordSchema,
    RoleSchema,
    ServiceKeySchema,
    UsernameSchema,
    WebhookSchema,
)
from hypercloud.api.shipyard.schemas import EngineSchema, ExtensionSchema, ImageSchema
from hypercloud.api.shipyard.webhooks import PushSchema

DESCRIPTION = (
    "The API of Shipyard 2.0. Unknown keys of JSON objects that are read are left out. Errors are plain text. "
    "Requests without a body of their own may have one. The role user may use containers, cluster, events and look at "
    "engines; a service key and the role admin everything."
)
_PORT = thing("host_ip port", container_port=COUNT, host_ip=TEXT, port=COUNT, proto={"enum": ["tcp", "udp"]})
_IMAGE = thing(
    "labels bind_ports links type hostname domain environment memory cpus cpuset container_name entrypoint args "
    "volumes user_data publish network_mode",
    name=TEXT,
    restart_policy=thing("name maximum_retry", name=TEXT, maximum_retry=COUNT),
    labels=many(TEXT),
    bind_ports=many(ref("Port")),
    links=said(TEXTS, "from a container's name to its alias"),
    type=said(TEXT, "service, unique, multi or host"),
    hostname=TEXT,
    domain=TEXT,
    environment=TEXTS,
    memory=said(NUMBER, "MB"),
    cpus=NUMBER,
    cpuset=TEXT,
    container_name=TEXT,
    entrypoint=many(TEXT),
    args=many(TEXT),
    volumes=many(TEXT),
    user_data={"type": "object"},
    publish=FLAG,
    network_mode=TEXT,
)
_STATE: Schema = {
    "anyOf": [thing(started_at=TEXT, pid=COUNT, running=FLAG), {"enum": ["running", "stopped"]}],
    "description": "a word for clients that name themselves shipyard-cli, shipyard-client or jclouds",
}
ANSWERS: dict[str, Schema] = {
    "Port": _PORT,
    "Image": _IMAGE,
    "Container": thing(
        state=_STATE,
        ports=many(ref("Port")),
        engine=ref("InnerEngine"),
        image=ref("Image"),
        id=TEXT,
        name=said(TEXT, "with a slash before it"),
    ),
    "InnerEngine": thing(
        labels=many(TEXT), memory=said(NUMBER, "MB"), cpus=NUMBER, addr=TEXT, id=said(TEXT, "its name")
    ),
    "Engine": thing(
        "ssl_cert ca_cert",
        engine=ref("InnerEngine"),
        id=TEXT,
        ssl_cert=TEXT,
        ca_cert=TEXT,
        health=thing(status={"enum": ["pending", "up", "down"]}, response_time=said(COUNT, "nanoseconds")),
        docker_version=TEXT,
    ),
    "Role": thing(name=TEXT, id=TEXT),
    "Account": thing(role=ref("Role"), password=said(TEXT, "always empty"), username=TEXT, id=TEXT),
    "Login": thing(auth_token=TEXT, user_agent=TEXT),
    "ServiceKey": thing(description=TEXT, key=TEXT),
    "WebhookKey": thing(key=TEXT, image=TEXT, id=TEXT),
    "NewWebhookKey": thing(image=TEXT, key=TEXT),
    "Cluster": thing(
        reserved_memory=NUMBER,
        reserved_cpus=NUMBER,
        image_count=COUNT,
        engine_count=COUNT,
        container_count=said(COUNT, "those that run"),
        memory=NUMBER,
        cpus=NUMBER,
        version=TEXT,
    ),
    "Event": thing(
        "engine container message",
        type=TEXT,
        time=said(TEXT, "RFC 3339"),
        tags=many(TEXT),
        engine=said({"type": "object"}, "as in a container; its id alone once it is off the list"),
        container=thing(id=TEXT, image=thing(name=TEXT, restart_policy={"type": "object"})),
        message=TEXT,
    ),
    "Extension": thing(
        id=TEXT,
        name=TEXT,
        image=TEXT,
        author=TEXT,
        description=TEXT,
        version=TEXT,
        url=TEXT,
        config=thing(
            container_name=TEXT,
            cpus=NUMBER,
            memory=NUMBER,
            environment=TEXTS,
            links=TEXTS,
            args=many(TEXT),
            volumes=many(TEXT),
            ports=many(ref("Port")),
            deploy_per_engine=FLAG,
            prompt_args=FLAG,
            prompt_env=FLAG,
        ),
    ),
}
OPERATIONS: dict[str, Operation] = {
    "POST /auth/login": Operation(
        tag="accounts",
        body="CredentialsSpec",
        schema=ref("Login"),
        public=True,
        errors=[429],
        note="403: they are wrong",
    ),
    "POST /account/changepassword": Operation(tag="accounts", body="PasswordSpec"),
    "GET /api/accounts": Operation(tag="accounts", schema=many(ref("Account"))),
    "POST /api/accounts": Operation(tag="accounts", body="AccountSpec", status=204, errors=[404]),
    "DELETE /api/accounts": Operation(tag="accounts", body="UsernameSpec", status=204, errors=[409]),
    "GET /api/roles": Operation(tag="roles", schema=many(ref("Role"))),
    "POST /api/roles": Operation(tag="roles", body="RoleSpec", status=204),
    "DELETE /api/roles": Operation(tag="roles", body="RoleSpec", status=204, errors=[409]),
    "GET /api/roles/{name}": Operation(tag="roles", schema=ref("Role"), note="500: there is no such role"),
    "GET /api/containers": Operation(tag="containers", schema=many(ref("Container"))),
    "POST /api/containers": Operation(
        tag="containers",
        query=[q("count", "how many; 1 if not given", COUNT), q("pull", "pull the image first", FLAG)],
        body="ImageSpec",
        status=201,
        schema=many(ref("Container")),
        errors=[404, 409],
        note="with an error none of them stays",
    ),
    "GET /api/containers/{prefix}": Operation(tag="containers", schema=ref("Container"), errors=[404, 409]),
    "DELETE /api/containers/{prefix}": Operation(tag="containers", status=204, errors=[404, 409]),
    "GET /api/containers/{prefix}/stop": Operation(tag="containers", status=204, errors=[404, 409]),
    "GET /api/containers/{prefix}/restart": Operation(tag="containers", status=204, errors=[404, 409]),
    "GET /api/containers/{prefix}/scale": Operation(
        tag="containers", query=[q("count", "how many", COUNT, needed=True)], status=204, errors=[404, 409]
    ),
    "GET /api/containers/{prefix}/logs": Operation(tag="containers", media=PLAIN, schema=TEXT, errors=[404, 409]),
    "GET /api/cluster/info": Operation(tag="cluster", schema=ref("Cluster")),
    "GET /api/events": Operation(
        tag="events", query=[q("limit", "how many at most", COUNT)], schema=many(ref("Event"))
    ),
    "DELETE /api/events": Operation(tag="events", status=204),
    "GET /api/engines": Operation(tag="engines", schema=many(ref("Engine"))),
    "POST /api/engines": Operation(tag="engines", body="EngineSpec", status=201, errors=[409]),
    "GET /api/engines/{key}": Operation(
        tag="engines", schema=ref("Engine"), errors=[404], note="the key is its id, or its name"
    ),
    "DELETE /api/engines/{key}": Operation(tag="engines", status=204, errors=[404, 409]),
    "GET /api/extensions": Operation(tag="extensions", schema=many(ref("Extension"))),
    "POST /api/extensions": Operation(tag="extensions", body="ExtensionSpec", status=204, errors=[409]),
    "GET /api/extensions/{key}": Operation(tag="extensions", schema=ref("Extension"), errors=[404]),
    "DELETE /api/extensions/{key}": Operation(tag="extensions", status=204, errors=[404]),
    "GET /api/servicekeys": Operation(tag="service keys", schema=many(ref("ServiceKey"))),
    "POST /api/servicekeys": Operation(tag="service keys", body="ServiceKeySpec", schema=ref("ServiceKey")),
    "DELETE /api/servicekeys": Operation(tag="service keys", body="ServiceKeySpec", status=204),
    "GET /api/webhookkeys": Operation(tag="webhook keys", schema=many(ref("WebhookKey"))),
    "POST /api/webhookkeys": Operation(tag="webhook keys", body="WebhookSpec", schema=ref("NewWebhookKey")),
    "GET /api/webhookkeys/{key}": Operation(tag="webhook keys", schema=ref("WebhookKey"), errors=[404]),
    "DELETE /api/webhookkeys/{key}": Operation(tag="webhook keys", status=204, errors=[404]),
    "DELETE /api/webhooks/{key}": Operation(
        tag="webhook keys", status=204, errors=[404], note="the same, as the original's document has it"
    ),
    "POST /hub/webhook/{key}": Operation(tag="webhook keys", body="PushSpec", public=True, errors=[404]),
    "GET /openapi/shipyard.json": Operation(tag="server", schema={"type": "object"}, public=True),
}
DIALECT = Dialect(
    name="shipyard",
    title="hypercloud: Shipyard's API",
    description=DESCRIPTION,
    operations=OPERATIONS,
    read=(
        CredentialsSchema,
        PasswordSchema,
        AccountSchema,
        UsernameSchema,
        RoleSchema,
        ServiceKeySchema,
        WebhookSchema,
        PushSchema,
        ImageSchema,
        EngineSchema,
        ExtensionSchema,
    ),
    answers=ANSWERS,
    common=(400, 401, 403, 500, 501),
    error=(PLAIN, TEXT),
    security={
        "serviceKey": {"type": "apiKey", "in": "header", "name": "X-Service-Key"},
        "accessToken": {
            "type": "apiKey",
            "in": "header",
            "name": "X-Access-Token",
            "description": "NAME:TOKEN, the token of POST /auth/login",
        },
    },
)
