select
    occurred_on as day,
    product_id,
    count(*) as orders,
    count(*) filter (where status = 'success') as successful_orders,
    count(*) filter (where status = 'failed') as failed_orders,
    count(*) filter (where status = 'pending') as pending_orders,
    sum(revenue)::numeric(18, 2) as revenue,
    count(distinct customer_id) as customers
from {{ ref("fct_transactions") }}
group by occurred_on, product_id
