select
    transaction_id,
    client_id as customer_id,
    produit_id as product_id,
    montant as amount,
    date as occurred_at,
    statut as status,
    updated_at,
    ingested_at
from {{ source("shop", "transactions_raw") }}
