select
    client_id as customer_id,
    nom as name,
    ville as city,
    inscrit_le as registered_on
from {{ source("shop", "clients") }}
