"""The few kinds of panel that the boards are made of, and what they have in common.

Every query selects by `job=~"$job"`, so that one Grafana shows several gateways; workers and replicas are added up in
PromQL. `$__rate_interval` and `$__range` are filled in by Grafana.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Query = tuple[str, str]
"""PromQL, and the legend (`{{label}}` is filled in by Grafana)."""
Panel = timeseries.Panel | stat.Panel | table.Panel

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${source}")
COLUMNS = 24
ROUTE_COLOURS = {"student": "#56A64B", "teacher": "#B877D9", "none": "#9FA7B3"}
"""One colour a route on every board; names too are in the legend, so that colour is never the only sign."""


def selector(metric: str, labels: str = "") -> str:
    """A metric of the chosen jobs, in braces what else must match."""
    return f'{metric}{{job=~"$job"{", " if labels else ""}{labels}}}'


def rate(metric: str, labels: str = "", *, by: str = "") -> str:
    """Per second, added up over workers and replicas."""
    return f"sum{_by(by)} (rate({selector(metric, labels)}[$__rate_interval]))"


def increase(metric: str, labels: str = "", *, by: str = "") -> str:
    """Over the time range of the board."""
    return f"sum{_by(by)} (increase({selector(metric, labels)}[$__range]))"


def quantile(q: float, metric: str, *, by: str = "") -> str:
    """Of a histogram."""
    inner = f"sum by (le{', ' if by else ''}{by}) (rate({selector(metric + '_bucket')}[$__rate_interval]))"
    return f"histogram_quantile({q}, {inner})"


def or_zero(expression: str) -> str:
    """For sums of counters that do not exist before something happened."""
    return f"({expression} or vector(0))"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


def chart(
    title: str,
    about: str,
    unit: str,
    *queries: Query,
    width: int = COLUMNS // 2,
    stacked: bool = False,
    top: float | None = None,
) -> timeseries.Panel:
    """Lines over time.

    Args:
        about: what it shows and what to make of it; Grafana shows it at the title.
        width: of 24 columns.
        top: upper end of the axis, for shares.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(width)
        .height(8)
        .line_width(2)
        .fill_opacity(25 if stacked else 5)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.TABLE)
            .placement(common_models.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["mean", "lastNotNull"])
        )
        .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    if top is not None:
        panel.max(top)
    for route, colour in ROUTE_COLOURS.items():
        panel.override_by_name(route, [models.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})])
    for query in _targets(queries):
        panel.with_target(query)
    return panel


third = partial(chart, width=COLUMNS // 3)
"""Three of them stand beside each other."""


def number(
    title: str, about: str, unit: str, query: str, *, width: int = 4, decimals: int = 1, bad_above: float | None = None
) -> stat.Panel:
    """One large number over the time range of the board. `bad_above`: red from there on."""
    steps = [models.Threshold(value=None, color="text")]
    if bad_above is not None:
        steps = [models.Threshold(value=None, color="green"), models.Threshold(value=bad_above, color="red")]
    return (
        stat.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .decimals(decimals)
        .span(width)
        .height(4)
        .no_value("no data")
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(prometheus.Dataquery().expr(query).instant().datasource(SOURCE).ref_id("A"))
    )


def listing(title: str, about: str, query: str, columns: Sequence[str], *, width: int = 12) -> table.Panel:
    """The label values of an instant query, as a table."""
    shown = {name: place for place, name in enumerate(columns)}
    return (
        table.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .span(width)
        .height(6)
        .with_target(
            prometheus.Dataquery().expr(query).instant().format(PromQueryFormat.TABLE).datasource(SOURCE).ref_id("A")
        )
        .with_transformation(
            models.DataTransformerConfig(
                id_val="organize",
                options={"indexByName": shown, "excludeByName": {"Time": True, "Value": "Value" not in shown}},
            )
        )
    )


def board(uid: str, title: str, about: str, *rows: tuple[str, Sequence[Panel]]) -> dashboard.Dashboard:
    """A board of rows. `uid` is stable: links and bookmarks keep working when a board is generated again."""
    built = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(about)
        .tags(["locum"])
        .timezone("utc")
        .refresh("30s")
        .time("now-6h", "now")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("job")
            .label("Gateway")
            .query("label_values(router_inflight_requests, job)")
            .datasource(SOURCE)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .current(models.VariableOption(text="All", value="$__all"))
        )
        .link(
            dashboard.DashboardLink("Locum")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["locum"])
            .as_dropdown(False)
            .keep_time(True)
            .include_vars(True)
        )
    )
    for name, panels in rows:
        built.with_row(dashboard.Row(name))
        for panel in panels:
            built.with_panel(panel)
    return built


def _targets(queries: Sequence[Query]) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery()
        .expr(expression)
        .legend_format(legend)
        .range()
        .datasource(SOURCE)
        .ref_id(chr(ord("A") + place))
        for place, (expression, legend) in enumerate(queries)
    ]
