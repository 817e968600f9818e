"""The Datasette door. Datasette looks for hooks, and beside them for `templates/` and
`static/`, in the package that its entry point names: this one."""

from vin_datasette.web.plugin import (
    extra_js_urls as extra_js_urls,
)
from vin_datasette.web.plugin import (
    get_metadata as get_metadata,
)
from vin_datasette.web.plugin import (
    menu_links as menu_links,
)
from vin_datasette.web.plugin import (
    permission_allowed as permission_allowed,
)
from vin_datasette.web.plugin import (
    permission_resources_sql as permission_resources_sql,
)
from vin_datasette.web.plugin import (
    register_actions as register_actions,
)
from vin_datasette.web.plugin import (
    register_output_renderer as register_output_renderer,
)
from vin_datasette.web.plugin import (
    register_routes as register_routes,
)
from vin_datasette.web.plugin import (
    render_cell as render_cell,
)
from vin_datasette.web.plugin import (
    startup as startup,
)
