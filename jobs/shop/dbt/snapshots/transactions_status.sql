{% snapshot transactions_status %}
{{ config(strategy="timestamp", unique_key="transaction_id", updated_at="updated_at") }}

select transaction_id, status, updated_at, ingested_at
from {{ ref("stg_shop__transactions") }}
{% if load_relation(this) %}
where ingested_at >= {{ watermark(this) }}
{% endif %}

{% endsnapshot %}
