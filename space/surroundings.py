"""What Gradio is to find in the environment; import this before Gradio."""

import os
import tempfile

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # it reports home otherwise
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

# Uploads and downloads lie in a folder that no other app has, so that it can be swept.
_wanted = os.environ.get("GRADIO_TEMP_DIR")
if _wanted:
    os.makedirs(_wanted, exist_ok=True)
FILES = tempfile.TemporaryDirectory(prefix="findtrack-", dir=_wanted or None)
os.environ["GRADIO_TEMP_DIR"] = FILES.name
