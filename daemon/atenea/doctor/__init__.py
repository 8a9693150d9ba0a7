"""`atenea doctor`: says what is missing on this machine for what the configuration asks.

A check is a function that yields findings; it changes nothing. What a plugin needs is found by the plugin's own hook
`diagnose`, in a worker. `package_findings` and `bundle_findings` are for such hooks too.
"""

from atenea.doctor.bundle import bundle_findings
from atenea.doctor.packages import package_findings

__all__ = ["bundle_findings", "package_findings"]
