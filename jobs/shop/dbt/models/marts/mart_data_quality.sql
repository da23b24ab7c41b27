-- What became of everything that came in, by the UTC day of its arrival.
{% set arrived_on = "(ingested_at at time zone 'UTC')::date" %}

with
batches as (select * from {{ source("shop", "load_batches") }}),

counts as (
    select {{ arrived_on }} as day, 'accepted' as outcome, '' as reason, count(*) as transactions
    from {{ ref("fct_transactions") }}
    group by 1
    union all
    -- Also counted as accepted.
    select {{ arrived_on }}, 'late', '', count(*)
    from {{ ref("fct_transactions") }}
    where ingested_at > greatest(occurred_at, updated_at) + interval '1 day'
    group by 1
    union all
    select {{ arrived_on }}, 'rejected', reject_reason, count(*)
    from {{ ref("rejected_transactions") }}
    group by 1, reject_reason
    union all
    select (refused_at at time zone 'UTC')::date, 'refused', reason, count(*)
    from {{ source("shop", "load_refusals") }}
    group by 1, reason
    union all
    select (batches.loaded_at at time zone 'UTC')::date, changes.outcome, '', sum(changes.transactions)
    from batches
    cross join lateral (
        values ('status_change', batches.updated), ('duplicate', batches.repeated), ('stale', batches.stale)
    ) as changes (outcome, transactions)
    group by 1, changes.outcome
)

select day, outcome, reason, transactions::bigint as transactions
from counts
where transactions > 0
