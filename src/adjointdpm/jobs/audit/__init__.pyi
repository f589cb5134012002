"""Auditing a classifier: how easily pictures that a diffusion model draws fool it."""

from .config import AuditConfig
from .items import audit_items
from .page import audit_page, write_audit_report
from .panel import Panel
from .run import AuditResult, run_audit
from .summary import Summary, summarize
from .worker import AuditWorker, build_worker, settings_of

__all__ = [
    "AuditConfig",
    "AuditResult",
    "AuditWorker",
    "Panel",
    "Summary",
    "audit_items",
    "audit_page",
    "build_worker",
    "run_audit",
    "settings_of",
    "summarize",
    "write_audit_report",
]
