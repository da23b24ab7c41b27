{{
    config(
        materialized="incremental",
        incremental_strategy="merge",
        unique_key="transaction_id",
        on_schema_change="fail",
        pre_hook="{{ delete_accepted() }}",
        indexes=[{"columns": ["ingested_at"]}],
    )
}}

with
checked as (select * from {{ ref("int_shop__transactions_checked") }}),
accepted as (select transaction_id from {{ ref("fct_transactions") }})

select
    checked.transaction_id,
    checked.customer_id,
    checked.product_id,
    checked.amount,
    checked.occurred_at,
    checked.status,
    checked.reject_reason,
    checked.updated_at,
    checked.ingested_at
from checked
-- A transaction that changes while dbt runs stays where it was until the next run.
left join accepted on accepted.transaction_id = checked.transaction_id
{% if is_incremental() %}
left join {{ this }} as loaded on loaded.transaction_id = checked.transaction_id
{% endif %}
where checked.reject_reason is not null
    and accepted.transaction_id is null
{% if is_incremental() %}
    and checked.ingested_at >= {{ watermark(this) }}
    and (
        loaded.transaction_id is null
        or loaded.ingested_at <> checked.ingested_at
        or loaded.reject_reason <> checked.reject_reason
    )
{% endif %}
