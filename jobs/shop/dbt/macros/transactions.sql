{#
    The time from which a run looks at rows again: the newest row of a relation, less the overlap. A constant, because
    PostgreSQL would expect a third of all rows to be newer than a subquery, and read the whole table.
#}
{% macro watermark(relation) -%}
    {%- if execute -%}
    {%- set newest = "select (coalesce(max(ingested_at), '-infinity') - interval '" ~ var("overlap") ~ "')::text" -%}
    '{{ run_query(newest ~ " from " ~ relation).columns[0][0] }}'::timestamptz
    {%- endif -%}
{%- endmacro %}

{# The ids in rejected_transactions. Not a ref: that model is built after fct_transactions, which asks this. #}
{% macro list_rejected() -%}
    {%- set rejected = adapter.get_relation(this.database, this.schema, "rejected_transactions") -%}
    {%- if rejected -%} select transaction_id from {{ rejected }}
    {%- else -%} select null::text as transaction_id where false
    {%- endif -%}
{%- endmacro %}

{# Delete the transactions that are not valid any more, before the merge and in its database transaction. #}
{% macro delete_invalid() -%}
    {%- if load_relation(this) and not should_full_refresh() -%}
    delete from {{ this }} as loaded
    using {{ ref("int_shop__transactions_checked").render() }} as checked
    where checked.transaction_id = loaded.transaction_id
        and checked.reject_reason is not null
        and checked.ingested_at >= {{ watermark(this) }}
    {%- endif -%}
{%- endmacro %}

{# Delete the rejected transactions that are valid now: fct_transactions has them. #}
{% macro delete_accepted() -%}
    {%- if load_relation(this) and not should_full_refresh() -%}
    delete from {{ this }} as rejected
    using {{ ref("fct_transactions").render() }} as accepted
    where accepted.transaction_id = rejected.transaction_id
    {%- endif -%}
{%- endmacro %}
