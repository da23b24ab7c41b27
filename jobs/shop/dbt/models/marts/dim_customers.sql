with
customers as (select * from {{ ref("stg_shop__customers") }}),

orders as (
    select
        customer_id,
        min(occurred_at) as first_order_at,
        max(occurred_at) as last_order_at,
        count(*) as orders,
        sum(revenue) as revenue
    from {{ ref("fct_transactions") }}
    group by customer_id
),

-- Segments count from the last transaction, not from now: the same data give the same segments.
today as (
    select max(occurred_at) as at from {{ ref("fct_transactions") }}
)

select
    customers.customer_id,
    customers.name,
    customers.city,
    customers.registered_on,
    orders.first_order_at,
    orders.last_order_at,
    coalesce(orders.orders, 0)::bigint as orders,
    coalesce(orders.revenue, 0)::numeric(18, 2) as revenue,
    case
        when orders.customer_id is null then 'prospect'
        when orders.last_order_at < today.at - interval '60 days' then 'lapsed'
        when orders.first_order_at >= today.at - interval '30 days' then 'new'
        else 'active'
    end as segment
from customers
left join orders on orders.customer_id = customers.customer_id
cross join today
