"""Who may use the gateway, and how much of it: keys, tenants, limits, budgets, and the queue in front of it."""

from router.admission.admission import Admission, Caller
from router.admission.permit import Permit
from router.admission.tenants import DEFAULT_TENANT, Tenant

__all__ = ["DEFAULT_TENANT", "Admission", "Caller", "Permit", "Tenant"]
