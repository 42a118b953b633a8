"""VMs without a pod: create one ahead of time, remove it."""

from __future__ import annotations

from flask import Response

from hyperd.api import answers, params
from hyperd.api.context import engine
from hyperd.api.hyper.routes import blueprint
from hyperd.spec.limits import MAX_MEMORY, MAX_VCPU, MIN_MEMORY, granted_memory
from hyperd.spec.model import Resource


@blueprint.post("/vm/create")
def create_vm() -> Response:
    """Boot an idle VM; with ``async`` do not wait for it."""
    defaults = engine().config.hypervisor
    vcpu = params.number("cpu", low=1, high=MAX_VCPU, default=defaults.default_vcpu)
    memory = granted_memory(params.number("mem", low=MIN_MEMORY, high=MAX_MEMORY, default=defaults.default_memory))
    engine().system.check_size(Resource(vcpu=vcpu, memory=memory))
    return answers.code(engine().vms.create(vcpu=vcpu, memory=memory, wait=not params.flag("async")))


@blueprint.delete("/vm")
def remove_vm() -> Response:
    """Switch a VM off."""
    vm_id = params.needed("vm", "vmId")
    engine().vms.remove(vm_id)
    return answers.code(vm_id)
