{{
    config(
        materialized="incremental",
        incremental_strategy="merge",
        unique_key="transaction_id",
        on_schema_change="fail",
        pre_hook="{{ delete_invalid() }}",
        indexes=[{"columns": ["ingested_at"]}],
    )
}}

with
arrived as (select transaction_id, ingested_at from {{ ref("stg_shop__transactions") }}),
checked as (select * from {{ ref("int_shop__transactions_checked") }} where reject_reason is null)
{%- if is_incremental() %},

-- New and changed rows, and rejected ones, because a client may be known by now.
candidates as (
    select transaction_id from arrived where ingested_at >= {{ watermark(this) }}
    union
    {{ list_rejected() }}
)
{%- endif %}

select
    checked.transaction_id,
    checked.customer_id,
    checked.product_id,
    checked.amount,
    checked.occurred_at,
    (checked.occurred_at at time zone 'UTC')::date as occurred_on,
    checked.status,
    checked.status = 'success' as is_success,
    (case when checked.status = 'success' then checked.amount else 0 end)::numeric(12, 2) as revenue,
    checked.updated_at,
    checked.ingested_at
from checked
{% if is_incremental() %}
inner join candidates on candidates.transaction_id = checked.transaction_id
-- Rows that have not changed are not written again.
left join {{ this }} as loaded on loaded.transaction_id = checked.transaction_id
where loaded.transaction_id is null or loaded.ingested_at <> checked.ingested_at
{% endif %}
