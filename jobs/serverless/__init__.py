"""Weather through Kinesis and Lambda into DynamoDB: on an emulator, or on AWS."""
