"""The dashboard Services: what the stack runs on, and whether it is watched."""

from __future__ import annotations

from infra.grafana.builder import Dashboard, Panel, Prom, Row, per_second

_NO_ELASTICSEARCH = "The exporter of Elasticsearch does not answer."
_NO_POSTGRES = "The exporter of PostgreSQL does not answer. It runs with the profile shop."
_DISK = "elasticsearch_filesystem_data"
_UP = {0: ("down", "red"), 1: ("up", "green")}

# The same figures have other names with Docker, where cAdvisor reads them.
_CONTAINER = '{name!=""}'


def _elasticsearch_color(color: str) -> str:
    return f'max by (cluster) (elasticsearch_cluster_health_status{{color="{color}"}})'


DASHBOARD = Dashboard(
    name="services",
    about="Elasticsearch, PostgreSQL, memory, restarts, and what Prometheus can read.",
    rows=(
        Row(
            "Watched",
            (
                Panel(
                    kind="stat",
                    title="Targets",
                    about="Whether Prometheus could read each target at the last scrape.",
                    queries=[Prom("min by (job) (up)", "{{job}}")],
                    empty="Prometheus does not answer.",
                    values=_UP,
                ),
                Panel(
                    kind="stat",
                    title="Probes",
                    about="Whether the exporter of this project could read each of its sources.",
                    queries=[Prom("min by (probe) (datastream_probe_success)", "{{probe}}")],
                    empty="The exporter of this project does not answer.",
                    values=_UP,
                ),
                Panel(
                    title="Duration of scrapes",
                    about="Prometheus gives up after 10 s.",
                    queries=[Prom("max by (job) (scrape_duration_seconds)", "{{job}}")],
                    empty="Prometheus does not answer.",
                    unit="s",
                    warn=5,
                ),
                Panel(
                    title="Series in Prometheus",
                    about="A steady rise: a label has values without limit.",
                    queries=[Prom("max by (job) (prometheus_tsdb_head_series)", "series")],
                    empty="Prometheus does not read its own metrics.",
                    decimals=0,
                ),
            ),
        ),
        Row(
            "Elasticsearch",
            (
                Panel(
                    kind="stat",
                    title="Status",
                    about="Red: a primary shard is missing. Yellow: a replica is.",
                    queries=[
                        Prom(f"{_elasticsearch_color('yellow')} + 2 * {_elasticsearch_color('red')}", "{{cluster}}")
                    ],
                    empty=_NO_ELASTICSEARCH,
                    values={0: ("green", "green"), 1: ("yellow", "yellow"), 2: ("red", "red")},
                    width=4,
                    height=4,
                ),
                Panel(
                    kind="stat",
                    title="Nodes",
                    about="Nodes in the cluster.",
                    queries=[Prom("max by (cluster) (elasticsearch_cluster_health_number_of_nodes)", "{{cluster}}")],
                    empty=_NO_ELASTICSEARCH,
                    alarm=1,
                    low_is_bad=True,
                    width=4,
                    height=4,
                ),
                Panel(
                    kind="stat",
                    title="Unassigned shards",
                    about="Shards without a node.",
                    queries=[Prom("max by (cluster) (elasticsearch_cluster_health_unassigned_shards)", "{{cluster}}")],
                    empty=_NO_ELASTICSEARCH,
                    warn=1,
                    width=4,
                    height=4,
                ),
                Panel(
                    kind="stat",
                    title="Heap in use",
                    about="Share of the heap. Above 90 % for minutes: the node needs more heap or less data.",
                    queries=[
                        Prom(
                            'max(elasticsearch_jvm_memory_used_bytes{area="heap"} / '
                            'elasticsearch_jvm_memory_max_bytes{area="heap"})'
                        )
                    ],
                    empty=_NO_ELASTICSEARCH,
                    unit="percentunit",
                    warn=0.8,
                    alarm=0.9,
                    width=4,
                    height=4,
                ),
                Panel(
                    kind="stat",
                    title="Free disk",
                    about="Below 250 MB Elasticsearch makes its indices read-only.",
                    queries=[Prom(f"min({_DISK}_available_bytes)")],
                    empty=_NO_ELASTICSEARCH,
                    unit="bytes",
                    warn=5e9,
                    alarm=1.5e9,
                    low_is_bad=True,
                    width=4,
                    height=4,
                ),
                Panel(
                    kind="stat",
                    title="Size of the indices",
                    about="Bytes on disk.",
                    queries=[Prom("sum by (cluster) (elasticsearch_indices_store_size_bytes)", "{{cluster}}")],
                    empty=_NO_ELASTICSEARCH,
                    unit="bytes",
                    width=4,
                    height=4,
                ),
                Panel(
                    title="Documents written",
                    about="Documents per second.",
                    queries=[Prom(per_second("elasticsearch_indices_indexing_index_total", "cluster"), "{{cluster}}")],
                    empty=_NO_ELASTICSEARCH,
                    unit="cps",
                ),
                Panel(
                    title="Searches",
                    about="Searches of shards per second.",
                    queries=[Prom(per_second("elasticsearch_indices_search_query_total", "cluster"), "{{cluster}}")],
                    empty=_NO_ELASTICSEARCH,
                    unit="cps",
                ),
            ),
        ),
        Row(
            "PostgreSQL",
            (
                Panel(
                    kind="stat",
                    title="Server",
                    about="Whether all servers answer.",
                    queries=[Prom("min(pg_up)")],
                    empty=_NO_POSTGRES,
                    values=_UP,
                    width=4,
                    height=8,
                ),
                Panel(
                    kind="stat",
                    title="Connections in use",
                    about="Share of max_connections, of the fullest server.",
                    queries=[
                        Prom(
                            "max(sum by (instance) (pg_stat_activity_count) "
                            "/ max by (instance) (pg_settings_max_connections))"
                        )
                    ],
                    empty=_NO_POSTGRES,
                    unit="percentunit",
                    warn=0.6,
                    alarm=0.8,
                    width=4,
                    height=8,
                ),
                Panel(
                    title="Transactions committed",
                    about="Transactions per second by database.",
                    queries=[Prom(per_second('pg_stat_database_xact_commit{datname!=""}', "datname"), "{{datname}}")],
                    empty=_NO_POSTGRES,
                    unit="cps",
                    width=8,
                ),
                Panel(
                    title="Reads from memory",
                    about="Share of the blocks that were in the server's memory.",
                    queries=[
                        Prom(
                            "sum by (datname) (rate(pg_stat_database_blks_hit[$__rate_interval])) / (sum by (datname) "
                            "(rate(pg_stat_database_blks_hit[$__rate_interval]) + "
                            "rate(pg_stat_database_blks_read[$__rate_interval])) > 0)",
                            "{{datname}}",
                        )
                    ],
                    empty=_NO_POSTGRES,
                    unit="percentunit",
                    width=8,
                ),
                Panel(
                    title="Connections by state",
                    about="Connections that stay `idle in transaction` hold locks.",
                    queries=[Prom("sum by (datname, state) (pg_stat_activity_count)", "{{datname}}: {{state}}")],
                    empty=_NO_POSTGRES,
                    width=8,
                ),
                Panel(
                    title="Size of the databases",
                    about="Bytes on disk.",
                    queries=[Prom("max by (datname) (pg_database_size_bytes)", "{{datname}}")],
                    empty=_NO_POSTGRES,
                    unit="bytes",
                    width=8,
                ),
                Panel(
                    title="Deadlocks",
                    about="Deadlocks per second. PostgreSQL ends one of the transactions.",
                    queries=[Prom(per_second('pg_stat_database_deadlocks{datname!=""}', "datname"), "{{datname}}")],
                    empty=_NO_POSTGRES,
                    unit="cps",
                    width=8,
                ),
            ),
        ),
        Row(
            "Processes and containers",
            (
                Panel(
                    title="Memory",
                    about="Resident memory of each process; with Docker, the working set of each container.",
                    queries=[
                        Prom("sum by (process) (datastream_process_resident_memory_bytes)", "{{process}}"),
                        Prom(f"sum by (name) (container_memory_working_set_bytes{_CONTAINER})", "{{name}}", "docker"),
                    ],
                    empty="With Docker, the profile observability-host reads the containers.",
                    unit="bytes",
                ),
                Panel(
                    title="Restarts",
                    about="Restarts in an hour.",
                    queries=[
                        Prom("sum by (process) (resets(datastream_process_uptime_seconds[1h]))", "{{process}}"),
                        Prom(
                            f"sum by (name) (changes(container_start_time_seconds{_CONTAINER}[1h]))",
                            "{{name}}",
                            "docker",
                        ),
                    ],
                    empty="With Docker, the profile observability-host reads the containers.",
                    decimals=0,
                    warn=1,
                ),
                Panel(
                    kind="stat",
                    title="Up since",
                    about="Time since the start of each process or container.",
                    queries=[
                        Prom("max by (process) (datastream_process_uptime_seconds)", "{{process}}"),
                        Prom(
                            f"time() - max by (name) (container_start_time_seconds{_CONTAINER})", "{{name}}", "docker"
                        ),
                    ],
                    empty="With Docker, the profile observability-host reads the containers.",
                    unit="s",
                    decimals=0,
                ),
                Panel(
                    title="Share of the memory limit",
                    about="Above 100 % the kernel ends the container's largest process. Processes have no limit.",
                    queries=[
                        Prom(
                            f"max by (name) (container_memory_working_set_bytes{_CONTAINER} / "
                            f"(container_spec_memory_limit_bytes{_CONTAINER} > 0))",
                            "{{name}}",
                            "docker",
                        )
                    ],
                    empty="Without Docker there are no limits. With Docker, the profile observability-host reads them.",
                    unit="percentunit",
                    warn=0.8,
                    alarm=0.9,
                ),
            ),
        ),
    ),
)
