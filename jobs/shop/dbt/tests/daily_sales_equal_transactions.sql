-- The sums by day and product are equal to those of the transactions, to the cent.
select sales.orders, transactions.orders as expected_orders, sales.revenue, transactions.revenue as expected_revenue
from
    (select coalesce(sum(orders), 0) as orders, coalesce(sum(revenue), 0) as revenue from {{ ref("fct_daily_sales") }})
        as sales
cross join
    (select count(*) as orders, coalesce(sum(revenue), 0) as revenue from {{ ref("fct_transactions") }})
        as transactions
where sales.orders <> transactions.orders or sales.revenue <> transactions.revenue
