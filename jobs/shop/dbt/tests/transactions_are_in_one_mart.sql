-- Each transaction is in fct_transactions or in rejected_transactions, with the amount that came in. Those that are
-- newer than the last run's overlap may be waiting for the next run.
with
marts as (
    select transaction_id, amount from {{ ref("fct_transactions") }}
    union all
    select transaction_id, amount from {{ ref("rejected_transactions") }}
)

select raw.transaction_id, count(marts.transaction_id) as marts
from {{ ref("stg_shop__transactions") }} as raw
left join marts on marts.transaction_id = raw.transaction_id and marts.amount = raw.amount
group by raw.transaction_id, raw.ingested_at
having count(marts.transaction_id) > 1
    or count(marts.transaction_id) = 0 and raw.ingested_at < {{ watermark(ref("fct_transactions")) }}
