-- Each transaction is in fct_transactions or in rejected_transactions, with the amount that came in. Those that are
-- newer than the last run's overlap may be waiting for the next run.
select
    raw.transaction_id,
    accepted.amount as accepted_amount,
    rejected.amount as rejected_amount,
    raw.amount
from {{ ref("stg_shop__transactions") }} as raw
left join {{ ref("fct_transactions") }} as accepted on accepted.transaction_id = raw.transaction_id
left join {{ ref("rejected_transactions") }} as rejected on rejected.transaction_id = raw.transaction_id
where (accepted.transaction_id is not null and rejected.transaction_id is not null)
    or coalesce(accepted.amount, rejected.amount) <> raw.amount
    or (
        accepted.transaction_id is null
        and rejected.transaction_id is null
        and raw.ingested_at < {{ watermark(ref("fct_transactions")) }}
    )
