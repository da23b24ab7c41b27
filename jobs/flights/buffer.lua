-- Adds one input to its stream, unless it is a repeat, and counts it. Atomic, also in the append-only file.
-- KEYS: the stream, the prefix of the sets of known ids, the counts. ARGV: id, hours that a set takes, source, kind of
-- count, then the fields and values of the entry. Returns 1 if added, 0 for a repeat.
local id, hours, source = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local seconds = hours * 3600
local time = redis.call('TIME')
local number = math.floor(tonumber(time[1]) / seconds)
local now, before = KEYS[2] .. number, KEYS[2] .. number - 1
-- A buffer that has lost its data is another buffer: the relay starts at its beginning.
redis.call('HSETNX', KEYS[3], 'buffer', time[1] .. '.' .. time[2])
redis.call('HINCRBY', KEYS[3], 'collected ' .. source, 1)
if redis.call('SISMEMBER', before, id) == 1 or redis.call('SADD', now, id) == 0 then
    redis.call('HINCRBY', KEYS[3], 'repeated ' .. source, 1)
    return 0
end
redis.call('EXPIREAT', now, (number + 2) * seconds)
redis.call('HINCRBY', KEYS[3], ARGV[4] .. ' ' .. source, 1)
redis.call('XADD', KEYS[1], '*', unpack(ARGV, 5))
return 1
