with
products as (select * from {{ ref("stg_shop__products") }}),
transactions as (select * from {{ ref("fct_transactions") }})

select
    products.product_id,
    products.name,
    products.category,
    products.price,
    count(transactions.transaction_id) as orders,
    coalesce(sum(transactions.revenue), 0)::numeric(18, 2) as revenue,
    avg(transactions.is_success::integer)::numeric(5, 4) as success_rate
from products
left join transactions on transactions.product_id = products.product_id
group by products.product_id, products.name, products.category, products.price
