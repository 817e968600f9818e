"""Says what an audit of the locked packages came to. Fails when one of them has a known weakness."""

import json
import sys
from pathlib import Path

text = Path(sys.argv[1]).read_text("utf-8")
packages = json.loads(text)["dependencies"] if text else []
weak = [f"{each['name']} {each['version']}: {one['id']}" for each in packages for one in each.get("vulns", [])]
audited = sum("vulns" in each for each in packages)
if weak:
    sys.exit("Known weaknesses of what requirements.txt locks:\n" + "\n".join(weak))
if audited < len(packages) or not packages:
    sys.stdout.write(f"No advisories could be had for {len(packages) - audited or 'any'} of the locked packages\n")
else:
    sys.stdout.write(f"No known weakness in {audited} locked packages\n")
