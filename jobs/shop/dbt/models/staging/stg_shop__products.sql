select
    produit_id as product_id,
    nom as name,
    categorie as category,
    prix as price
from {{ source("shop", "produits") }}
