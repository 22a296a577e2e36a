-- For wrk: no two requests alike, as of callers who trace them: a query and a traceparent of their own in each.
local number = 0

function request()
   number = number + 1
   wrk.headers["traceparent"] = string.format("00-%032x-%016x-01", number, number)
   return wrk.format(nil, wrk.path .. "?n=" .. number)
end
