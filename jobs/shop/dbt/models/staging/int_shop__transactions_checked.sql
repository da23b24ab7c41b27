-- The first reason that applies, in a fixed order, so that each rejected transaction is counted once.
with
transactions as (select * from {{ ref("stg_shop__transactions") }}),
customers as (select customer_id from {{ ref("stg_shop__customers") }}),
products as (select product_id from {{ ref("stg_shop__products") }})

select
    transactions.*,
    case
        when transactions.amount <= 0 then 'nonpositive_amount'
        when transactions.status not in ('success', 'failed', 'pending') then 'unknown_status'
        -- A day: a source may write local time without a zone.
        when transactions.occurred_at > transactions.ingested_at + interval '1 day' then 'future_date'
        when customers.customer_id is null then 'unknown_client'
        when products.product_id is null then 'unknown_product'
    end as reject_reason
from transactions
left join customers on customers.customer_id = transactions.customer_id
left join products on products.product_id = transactions.product_id
