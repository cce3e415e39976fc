-- The place of a waiting request, and when it is foreseen to be served.
-- ARGV[1]  id of its lease
-- Returns  JSON: decision "wait" with place (1 is the next; in requests, as many as its fair share lets go before it) and
--          wait_us (-1 unknown); "unknown": it does not wait
local waiter = waiter_of(ARGV[1])
if not waiter then return reply({decision = 'unknown'}) end
need, flow, cost, weight = classes[waiter.k], waiter.f, waiter.c, waiter.w
priority = need.q
local own = 0  -- requests of its flow that came before it
for _, class in ipairs(first_classes()) do
  local line = class.name .. '|' .. flow .. '|'
  own = own + redis.call('ZLEXCOUNT', K.queue, '[' .. line, '(' .. line .. string.format('%016.0f', waiter.at))
end
local slots, each = slots_ahead(own)
local place = math.min(setting('waiting_' .. priority), 1 + math.ceil((slots - cost) / math.max(1, each)))
return reply({decision = 'wait', place = math.max(1, place), wait_us = forecast(own) or -1})
