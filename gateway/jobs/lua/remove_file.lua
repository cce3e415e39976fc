-- Remove the record of a file with its bytes, and remember for a while where it stood in a list. Preceded by
-- storage/lua/stored.lua.
-- KEYS[1], KEYS[2], KEYS[3]  as in add_file.lua
-- KEYS[4]  string: the position of the removed file
-- KEYS[5]  hash: hour of expiry -> bytes that the tenant stores
-- ARGV[1], ARGV[2], ARGV[3]  file ID, its position, seconds for which that is remembered
-- ARGV[4], ARGV[5]  hour of expiry of its content, bytes that are counted for it
-- Returns  1; 0 if there is no such record
-- TTL      of KEYS[4]: ARGV[3]
-- Clock    not used
local record = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HLEN', KEYS[5])
if not record then return 0 end
local key = cjson.decode(record).key
if key then redis.call('HDEL', KEYS[3], key) end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('SET', KEYS[4], ARGV[2], 'EX', ARGV[3])
take_back(KEYS[5], ARGV[4], ARGV[5])
return 1
